"""Gaussian blur: the lens and the motion in front of the sensor."""

from typing import Annotated, Literal, Self

import cv2
import numpy as np
from pydantic import AfterValidator, Field

from degradations.images import FloatImage
from degradations.kernels import gaussian_1d, gaussian_2d, scaled_ksize
from degradations.step import Params, PositiveRange, Step


def _odd(ksize: int) -> int:
    if ksize < 1 or ksize % 2 == 0:
        raise ValueError(f"a kernel side is an odd number of pixels, got {ksize}")
    return ksize


class BlurStep(Step):
    """Ranges of the blur, in pixels of a 512x512 image."""

    op: Literal["blur"] = "blur"
    sigma: PositiveRange
    ksizes: tuple[Annotated[int, AfterValidator(_odd)], ...] = Field(default=(39, 41), min_length=1)
    isotropic_probability: float = Field(default=0.5, ge=0, le=1)

    def scaled(self, scale: float) -> Self:
        """The same blur for an image `scale` times as large as the one the ranges are stated for."""
        low, high = self.sigma
        ksizes = tuple(scaled_ksize(ksize, scale) for ksize in self.ksizes)
        return self.model_copy(update={"sigma": (low * scale, high * scale), "ksizes": ksizes})

    def draw(self, rng: np.random.Generator) -> Params:
        """Draws, in this order: kind, kernel side, sigma_x, sigma_y, theta (in [-pi, pi]).

        All five are drawn for both kinds, so that what follows does not depend on the kind; an isotropic kernel then
        takes sigma_x for both axes and theta 0.
        """
        isotropic = bool(rng.random() < self.isotropic_probability)
        ksize = self.ksizes[int(rng.integers(len(self.ksizes)))]
        sigma_x, sigma_y = rng.uniform(*self.sigma), rng.uniform(*self.sigma)
        theta = rng.uniform(-np.pi, np.pi)
        return {
            "kernel": "isotropic" if isotropic else "anisotropic",
            "ksize": ksize,
            "sigma_x": sigma_x,
            "sigma_y": sigma_x if isotropic else sigma_y,
            "theta": 0.0 if isotropic else theta,
        }


def blur(
    image: FloatImage,
    *,
    kernel: Literal["isotropic", "anisotropic"],
    ksize: int,
    sigma_x: float,
    sigma_y: float,
    theta: float,
) -> FloatImage:
    """(H, W, 3) float32 to the same: correlation with the kernel, reflect-101 borders."""
    if kernel == "isotropic":
        # The same result as the 2-D kernel in half the time.
        weights = gaussian_1d(ksize, sigma_x)
        blurred = cv2.sepFilter2D(image, -1, weights, weights, borderType=cv2.BORDER_REFLECT_101)
    else:
        weights = gaussian_2d(ksize, sigma_x, sigma_y, theta)
        blurred = cv2.filter2D(image, -1, weights, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(blurred, dtype=np.float32)
