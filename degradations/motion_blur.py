"""Motion blur: the camera or the head moved while the shutter was open."""

from typing import Literal, Self

import cv2
import numpy as np

from degradations.images import FloatImage
from degradations.kernels import motion_2d
from degradations.step import Params, PositiveRange, RecipeStep


class MotionBlurStep(RecipeStep):
    """Range of the streak's length, in pixels of a 512x512 image."""

    op: Literal["motion_blur"] = "motion_blur"
    length: PositiveRange

    def scaled(self, scale: float) -> Self:
        """The same blur for an image `scale` times as large."""
        low, high = self.length
        return self.model_copy(update={"length": (low * scale, high * scale)})

    def draw_values(self, rng: np.random.Generator) -> Params:
        """Draws, in this order: length, angle (in [0, pi])."""
        return {"length": rng.uniform(*self.length), "angle": rng.uniform(0, np.pi)}


def motion_blur(image: FloatImage, length: float, angle: float) -> FloatImage:
    """(H, W, 3) float32 to the same, reflect-101 borders."""
    weights = motion_2d(length, angle)
    return np.asarray(cv2.filter2D(image, -1, weights, borderType=cv2.BORDER_REFLECT_101), dtype=np.float32)
