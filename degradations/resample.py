"""Change of size: the face's distance from the camera, and back to the size that networks take."""

from typing import Annotated, Literal, Self

import cv2
import numpy as np
from pydantic import AfterValidator, PositiveFloat

from degradations.errors import DegradationError
from degradations.images import FloatImage, Uint8Image, to_float
from degradations.step import Params, PositiveRange, Probability, RecipeStep

# A single pixel would enlarge to a flat colour. Only images below 60 pixels reach this bound at the largest
# published factor, 30.
MIN_SIDE = 2

# OpenCV's are PyTorch's, but that its "area" interpolates when it enlarges.
Filter = Literal["area", "bilinear", "bicubic"]
FILTERS: dict[Filter, int] = {
    "area": cv2.INTER_AREA,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
}


class DownsampleStep(RecipeStep):
    """Range of the factor r; below 1 the image grows, as in the published recipes."""

    op: Literal["downsample"] = "downsample"
    r: PositiveRange

    def draw_values(self, rng: np.random.Generator) -> Params:
        """Draws r."""
        return {"r": rng.uniform(*self.r)}


def downsample(image: FloatImage, r: float) -> FloatImage:
    """(H, W, 3) float32 to (H // r, W // r, 3), bilinear, each side at least MIN_SIDE pixels."""
    height, width = (max(MIN_SIDE, int(side // r)) for side in image.shape[:2])
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def _around_one(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] <= 1 <= bounds[1]:
        raise ValueError(f"a range of scales holds 1, got {bounds}")
    return bounds


class ResizeStep(RecipeStep):
    """Up, down or neither, by one of three filters: the resizing of Real-ESRGAN.

    `scale` spans the scales of both directions. `side`, in pixels for a 512x512 face, is what they apply to; None is
    the image as it comes.
    """

    op: Literal["resize"] = "resize"
    up: Probability
    down: Probability
    scale: Annotated[PositiveRange, AfterValidator(_around_one)]
    side: PositiveFloat | None = None

    def scaled(self, scale: float) -> Self:
        """The same for a face `scale` times as large."""
        return self.model_copy(update={"side": self.side and self.side * scale})

    def draw_values(self, rng: np.random.Generator) -> Params:
        """Draws, in this order: the direction, the scale upwards, the scale downwards, the filter."""
        direction = rng.random()
        up, down = rng.uniform(1, self.scale[1]), rng.uniform(self.scale[0], 1)
        scale = up if direction < self.up else down if direction < self.up + self.down else 1.0
        return {"scale": scale, "filter": draw_filter(rng), "side": self.side}


def draw_filter(rng: np.random.Generator) -> Filter:
    """One of the three filters."""
    return list(FILTERS)[int(rng.integers(len(FILTERS)))]


def resize(image: FloatImage, scale: float, filter: Filter, side: float | None = None) -> FloatImage:  # noqa: A002
    """(H, W, 3) float32 to `scale` times its size, or to `scale` times `side` pixels, at least MIN_SIDE."""
    height, width = (max(MIN_SIDE, int((side or own) * scale)) for own in image.shape[:2])
    return np.asarray(cv2.resize(image, (width, height), interpolation=FILTERS[filter]), dtype=np.float32)


def enlarge(small: Uint8Image, side: int) -> Uint8Image:
    """What a network sees of a small LQ: bilinear to (side, side, 3), then rounded to 8 bits; uint8 RGB both.

    The interpolation is in float: OpenCV's 8-bit one rounds twice, which darkens the image by 0.1 level.
    """
    if small.ndim != 3 or small.shape[2] != 3 or small.dtype != np.uint8:
        raise DegradationError(f"enlarge takes a uint8 RGB image (H, W, 3), got {small.dtype} {small.shape}.")
    large = cv2.resize(to_float(small), (side, side), interpolation=cv2.INTER_LINEAR)
    # Bilinear values stay within [0, 1]: scaling and rounding are all that is left to do, in one pass.
    return np.asarray(cv2.convertScaleAbs(large, alpha=255), dtype=np.uint8)
