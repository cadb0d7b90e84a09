"""Change of size: the face's distance from the camera, and back to the size that networks take."""

from typing import Literal

import cv2
import numpy as np

from degradations.errors import DegradationError
from degradations.images import FloatImage, Uint8Image, to_float
from degradations.step import Params, PositiveRange, Step

# A single pixel would enlarge to a flat colour. Only images below 60 pixels reach this bound at the largest
# published factor, 30.
MIN_SIDE = 2


class DownsampleStep(Step):
    """Range of the factor r; below 1 the image grows, as in the published recipes."""

    op: Literal["downsample"] = "downsample"
    r: PositiveRange

    def draw(self, rng: np.random.Generator) -> Params:
        """Draws r."""
        return {"r": rng.uniform(*self.r)}


def downsample(image: FloatImage, r: float) -> FloatImage:
    """(H, W, 3) float32 to (H // r, W // r, 3), bilinear, each side at least MIN_SIDE pixels."""
    height, width = (max(MIN_SIDE, int(side // r)) for side in image.shape[:2])
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def enlarge(small: Uint8Image, side: int) -> Uint8Image:
    """What a network sees of a small LQ: bilinear to (side, side, 3), then rounded to 8 bits; uint8 RGB both.

    The interpolation is in float: OpenCV's 8-bit one rounds twice, which darkens the image by 0.1 level.
    """
    if small.ndim != 3 or small.shape[2] != 3 or small.dtype != np.uint8:
        raise DegradationError(f"enlarge takes a uint8 RGB image (H, W, 3), got {small.dtype} {small.shape}.")
    large = cv2.resize(to_float(small), (side, side), interpolation=cv2.INTER_LINEAR)
    # Bilinear values stay within [0, 1]: scaling and rounding are all that is left to do, in one pass.
    return np.asarray(cv2.convertScaleAbs(large, alpha=255), dtype=np.uint8)
