"""Pictures that people bring: the one way in which they are read, and what is seen of them.

What the pipeline itself has written, such as shards, is read by `daefr.images`.
"""

from daefr.photographs.errors import ImageError
from daefr.photographs.photograph import Photograph
from daefr.photographs.reader import KINDS, Source, count_pixels, open_image, read_opaque, read_photograph, read_srgb

__all__ = [
    "KINDS",
    "ImageError",
    "Photograph",
    "Source",
    "count_pixels",
    "open_image",
    "read_opaque",
    "read_photograph",
    "read_srgb",
]
