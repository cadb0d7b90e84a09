"""What restoring photographs can be asked for, known without PyTorch."""

from typing import Literal

BATCH_SIZE = 4
"""Photographs and faces at once, unless stated otherwise."""
SCALES = (1, 2, 4)
"""How many times a photograph can be enlarged."""

ImageType = Literal["jpg", "png", "webp", "tiff"]
Format = Literal["jpg", "png", "webp", "tiff", "same"]
"""The type of results; `same` is that of the source, by its suffix, and PNG where that is none of these."""
Metadata = Literal["none", "basic", "all"]
"""Of the source's EXIF, XMP and resolution: nothing, all but where it was taken and what cameras hide, or all."""
