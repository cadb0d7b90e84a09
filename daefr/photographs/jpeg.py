"""What has to be known of a JPEG before it is decoded: how often it passes over its pixels, and if any are lost."""

import io
import re

import numpy as np
import PIL.Image

from daefr.photographs.errors import ImageError

MAX_SCANS = 200
"""Progressive JPEGs have about ten scans, each a pass over all pixels; a file of some megabytes could have thousands,
and take hours."""

START_OF_SCAN, END = 0xDA, b"\xff\xd9"
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
COEFFICIENTS = 64
FILLER = bytes.fromhex("aa556996") * 1024
"""Decodes to something else than the zeros that a decoder takes where data are missing."""


def check_scans(data: bytes) -> None:
    """Raise `ImageError` for more than `MAX_SCANS` scans."""
    if data.count(bytes([0xFF, START_OF_SCAN])) > MAX_SCANS:
        raise ImageError(f"a JPEG of more than {MAX_SCANS} scans")


def with_end(data: bytes) -> bytes:
    """Return a JPEG with its end marker, which may be missing. Raises `ImageError` when more is missing than that."""
    if data.rfind(END) > data.rfind(bytes([0xFF, START_OF_SCAN])):
        return data
    begun = data.rstrip(b"\xff")
    ended = begun + END
    # if what follows the last byte changes the picture, then the picture is not all there
    if not _has_all_scans(ended) or not np.array_equal(_decoded(ended), _decoded(begun + FILLER + END)):
        raise ImageError("damaged: the JPEG is cut short")
    return ended


def _decoded(data: bytes) -> np.ndarray:
    with PIL.Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        return np.asarray(image)


def _has_all_scans(data: bytes) -> bool:
    """Tell whether the scans that have begun bring every coefficient of every component to its last bit."""
    missing: set[tuple[int, int]] = set()
    position = 2
    while data[position] == 0xFF and position + 4 <= len(data):
        kind, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4])
        body = data[position + 4 : position + 2 + length]
        position += 2 + length
        if kind in FRAMES:
            missing = {(component, each) for component in body[6 : 6 + 3 * body[5] : 3] for each in range(COEFFICIENTS)}
        if kind == START_OF_SCAN:
            count = body[0]
            first, last, bits_left = body[1 + 2 * count], body[2 + 2 * count], body[3 + 2 * count] & 15
            if not bits_left:
                missing -= {(part, each) for part in body[1 : 2 * count : 2] for each in range(first, last + 1)}
            following = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]").search(data, position)
            position = following.start() if following else len(data) - 1
    return not missing
