"""Pictures of 16 bits per channel, of which Pillow reads the upper 8 alone where they are coloured."""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from daefr.images import Image

Pixels = npt.NDArray[np.uint8 | np.uint16]
"""(H, W, C) uint8 or uint16."""
Channel = npt.NDArray[np.uint8 | np.uint16]
"""(H, W) uint8 or uint16."""

STEP = 257
"""A level of 8 bits in 16."""
SIZE_OF_16_BIT = 2

# what EXIF's orientations ask for
_TURNS: dict[int, Any] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


def is_deep(image: Pixels | Channel) -> bool:
    """Tell whether an image has 16 bits per channel."""
    return image.dtype.itemsize == SIZE_OF_16_BIT


def to_8_bit(pixels: Pixels) -> Image:
    """Round to 8 bits per channel; what has no more is returned as it is."""
    return np.asarray(cv2.convertScaleAbs(pixels, alpha=1 / STEP) if is_deep(pixels) else pixels, np.uint8)


def read_deep(data: bytes, page: int, orientation: int, shallow: Image) -> npt.NDArray[np.uint16] | None:
    """Read the page of a PNG or TIFF, of which Pillow has read `shallow`, (H, W, 3 or 4) uint8, upright.

    Returns the same with 16 bits, or None where OpenCV does not see the same picture: it knows fewer kinds of TIFF.
    """
    try:
        found = cv2.imdecodemulti(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED, range=(page, page + 1))[1]
    except cv2.error:
        return None
    if not found or found[0].dtype != np.uint16:
        return None
    image = np.atleast_3d(found[0])
    image = image[..., {1: [0, 0, 0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[image.shape[2]][: shallow.shape[2]]]
    for turned in (image, _TURNS.get(orientation, np.asarray)(image)):  # OpenCV itself turns some kinds
        if turned.shape == shallow.shape and _is_same(turned, shallow):
            return np.ascontiguousarray(turned)
    return None


def _is_same(deep: npt.NDArray[Any], shallow: Image) -> bool:
    rows = slice(None, None, 1 + deep.size // 10_000_000)  # of a large picture, some are enough
    return np.array_equal(deep[rows] >> 8, shallow[rows])
