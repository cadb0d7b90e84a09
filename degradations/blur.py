"""Gaussian blur: the lens and the motion in front of the sensor."""

from typing import Literal, Self

import numpy as np

from degradations.fourier import Spectrum, margin_for
from degradations.images import FloatImage
from degradations.kernels import gaussian_2d, scaled_ksize
from degradations.step import Ksizes, Params, PositiveRange, Probability, RecipeStep


class BlurStep(RecipeStep):
    """Ranges of the blur, in pixels of a 512x512 image."""

    op: Literal["blur"] = "blur"
    sigma: PositiveRange
    ksizes: Ksizes = (39, 41)
    isotropic_probability: Probability = 0.5

    def scaled(self, scale: float) -> Self:
        """The same blur for an image `scale` times as large as the one the ranges are stated for."""
        low, high = self.sigma
        ksizes = tuple(scaled_ksize(ksize, scale) for ksize in self.ksizes)
        return self.model_copy(update={"sigma": (low * scale, high * scale), "ksizes": ksizes})

    def draw_values(self, rng: np.random.Generator) -> Params:
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
    spectrum: Spectrum | None = None,
) -> FloatImage:
    """(H, W, 3) float32 to the same: correlation with the kernel, reflect-101 borders.

    An isotropic kernel takes `sigma_x` for both axes; `gaussian_2d` has the units. `spectrum` is the image's, where it
    is at hand.
    """
    if kernel == "isotropic":
        sigma_y, theta = sigma_x, 0.0
    spectrum = spectrum or Spectrum(image, margin_for(ksize))
    return spectrum.correlate(gaussian_2d(ksize, sigma_x, sigma_y, theta))
