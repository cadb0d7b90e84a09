"""What callers give as a photograph, in the forms that `read_photograph` reads."""

import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image

from daefr.photographs import ImageError, Photograph, Source

AnySource = Source | bytearray | memoryview | BinaryIO
"""Beside a `Source`, where arrays may also be gray (H, W) or (H, W, 1), gray with alpha (H, W, 2) or RGBA (H, W, 4):
content in other buffers, and binary files, which are read from their start."""

CHANNELS = (1, 2, 4)
"""Beside 3: gray, gray with alpha, RGBA."""


def as_source(given: AnySource) -> Source:
    """Return what was given as a `Source`. Raises `ImageError`, which names its type, when it is no photograph."""
    if isinstance(given, (bytearray, memoryview)):
        return bytes(given)
    if isinstance(given, np.ndarray):
        return _from_array(given)
    if isinstance(given, (str, bytes, PIL.Image.Image, Photograph)):
        return given
    if isinstance(given, os.PathLike):
        return Path(given)
    if hasattr(given, "read"):
        return _from_file(given)
    raise ImageError(
        f"no photograph but {type(given).__name__}: give a path, a file's content, an image of Pillow's or an array"
    )


def _from_array(array: Any) -> Source:
    gray = array.ndim == 2
    if array.dtype != np.uint8 or not array.size or not (gray or (array.ndim == 3 and array.shape[2] in CHANNELS)):
        return array  # type: ignore[no-any-return]  # RGB, or what the reader refuses by name
    return PIL.Image.fromarray(array[..., 0] if not gray and array.shape[2] == 1 else array)


def _from_file(file: Any) -> bytes:
    if file.seekable():
        file.seek(0)
    content = file.read()
    if not isinstance(content, bytes):
        raise ImageError("a file of text: open it in binary mode")
    return content
