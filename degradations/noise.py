"""Noise: the sensor."""

from typing import Literal

import cv2
import numpy as np

from degradations.images import FloatImage
from degradations.step import Params, Probability, Range, RecipeStep


class NoiseStep(RecipeStep):
    """Range of the Gaussian noise's standard deviation, in levels of 255."""

    op: Literal["noise"] = "noise"
    sigma: Range

    def draw_values(self, rng: np.random.Generator) -> Params:
        """Draws, in this order: sigma, and the seed of the noise field, so that the values alone rebuild the image."""
        return {"sigma": rng.uniform(*self.sigma), "seed": draw_seed(rng)}


def draw_seed(rng: np.random.Generator) -> int:
    """The seed of a noise field."""
    return int(rng.integers(2**32))


def add_noise(image: FloatImage, sigma: float, seed: int) -> FloatImage:
    """(H, W, 3) float32 to the same: independent noise for every pixel and channel, clipped to [0, 1]."""
    field = np.random.default_rng(seed).standard_normal(image.shape, dtype=np.float32)
    return np.clip(image + field * np.float32(sigma / 255), 0, 1)


class MixedNoiseStep(RecipeStep):
    """Gaussian or Poisson noise, of every channel or the same for all three: the noise of Real-ESRGAN.

    `sigma` in levels of 255; `scale` multiplies the Poisson noise of an image of as many counts as it has levels.
    """

    op: Literal["mixed_noise"] = "mixed_noise"
    gaussian_probability: Probability
    sigma: Range
    scale: Range
    gray_probability: Probability

    def draw_values(self, rng: np.random.Generator) -> Params:
        """Draws, in this order: kind, gray or not, sigma, scale, the seed of the noise field."""
        gaussian = bool(rng.random() < self.gaussian_probability)
        gray = bool(rng.random() < self.gray_probability)
        sigma, scale = rng.uniform(*self.sigma), rng.uniform(*self.scale)
        kind = "gaussian" if gaussian else "poisson"
        return {"kind": kind, "amount": sigma if gaussian else scale, "gray": gray, "seed": draw_seed(rng)}


def add_mixed_noise(
    image: FloatImage, kind: Literal["gaussian", "poisson"], amount: float, gray: bool, seed: int
) -> FloatImage:
    """(H, W, 3) float32 to the same, clipped to [0, 1]; `amount` is sigma in levels of 255, or the Poisson scale."""
    rng = np.random.default_rng(seed)
    if kind == "gaussian":
        field = rng.standard_normal((*image.shape[:2], 1 if gray else 3), dtype=np.float32) * np.float32(amount / 255)
    else:
        field = _shot_noise(image, gray, rng) * np.float32(amount)
    return np.clip(image + field, 0, 1)


def _shot_noise(image: FloatImage, gray: bool, rng: np.random.Generator) -> FloatImage:
    """(H, W, 1 or 3) Poisson noise of zero mean; full scale is the power of 2 at or above the number of levels."""
    seen = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] if gray else image
    levels = np.rint(np.clip(seen, 0, 1) * np.float32(255)) / np.float32(255)
    counts = 2 ** np.ceil(np.log2(len(np.unique(levels))))
    return np.asarray(rng.poisson(levels * counts) / counts - levels, dtype=np.float32)
