"""Image types, and the one place where 8 bits and floats meet.

Every image here is (H, W, 3), RGB. OpenCV's BGR stays inside the functions that encode or decode a JPEG.
"""

import numpy as np
from numpy.typing import NDArray

Uint8Image = NDArray[np.uint8]  # (H, W, 3), RGB, 0 to 255
FloatImage = NDArray[np.float32]  # (H, W, 3), RGB, nominally 0 to 1


def to_float(image: Uint8Image) -> FloatImage:
    """(H, W, 3) uint8 in [0, 255] to float32 in [0, 1]."""
    return np.divide(image, np.float32(255), dtype=np.float32)


def to_uint8(image: FloatImage) -> Uint8Image:
    """(H, W, 3) float32 to uint8: clipped to [0, 1], then rounded to the nearest of 256 levels."""
    levels: FloatImage = np.rint(np.clip(image, 0, 1) * np.float32(255))
    return levels.astype(np.uint8)
