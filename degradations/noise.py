"""Gaussian noise: the sensor."""

from typing import Literal

import numpy as np

from degradations.images import FloatImage
from degradations.step import Params, Range, Step


class NoiseStep(Step):
    """Range of the noise's standard deviation, in levels of 255."""

    op: Literal["noise"] = "noise"
    sigma: Range

    def draw(self, rng: np.random.Generator) -> Params:
        """Draws, in this order: sigma, and the seed of the noise field, so that the values alone rebuild the image."""
        return {"sigma": rng.uniform(*self.sigma), "seed": int(rng.integers(2**32))}


def add_noise(image: FloatImage, sigma: float, seed: int) -> FloatImage:
    """(H, W, 3) float32 to the same: independent noise for every pixel and channel, clipped to [0, 1]."""
    field = np.random.default_rng(seed).standard_normal(image.shape, dtype=np.float32)
    return np.clip(image + field * np.float32(sigma / 255), 0, 1)
