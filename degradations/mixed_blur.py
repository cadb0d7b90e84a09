"""The blur of Real-ESRGAN: three shapes of kernel, or a sinc filter that rings."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

import cv2
import numpy as np
from pydantic import AfterValidator

from degradations.images import FloatImage
from degradations.kernels import Weights, gaussian_2d, generalized_2d, plateau_2d, scaled_ksize, sinc_2d
from degradations.step import Ksizes, Params, PositiveRange, Probability, RecipeStep

Kernel = Literal["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"]

# Below this side a sinc kernel cut off at pi / 5 would not hold one period of its ringing (Real-ESRGAN's bound).
_WIDE = 13


def _around_one(bounds: tuple[float, float]) -> tuple[float, float]:
    if not 0 < bounds[0] <= 1 <= bounds[1]:
        raise ValueError(f"a range of beta starts above 0 and holds 1, got {bounds}")
    return bounds


def _shares(weights: dict[Kernel, float]) -> dict[Kernel, float]:
    if not weights or min(weights.values()) < 0 or abs(sum(weights.values()) - 1) > 1e-6:
        raise ValueError(f"the kernels' probabilities add up to 1, got {weights}")
    return weights


BetaRange = Annotated[tuple[float, float], AfterValidator(_around_one)]


class MixedBlurStep(RecipeStep):
    """Shares of the kernels and ranges of their shape, in pixels of a 512x512 image."""

    op: Literal["mixed_blur"] = "mixed_blur"
    kernels: Annotated[dict[Kernel, float], AfterValidator(_shares)]
    sigma: PositiveRange
    ksizes: Ksizes
    generalized_beta: BetaRange
    plateau_beta: BetaRange
    sinc_probability: Probability

    def scaled(self, scale: float) -> Self:
        """The same blur for an image `scale` times as large; a sinc filter's cutoff is the pixels' own and stays."""
        low, high = self.sigma
        ksizes = tuple(scaled_ksize(ksize, scale) for ksize in self.ksizes)
        return self.model_copy(update={"sigma": (low * scale, high * scale), "ksizes": ksizes})

    def draw_values(self, rng: np.random.Generator) -> Params:
        """Draws, in this order: kernel side, sinc or not, cutoff, kernel, sigma_x, sigma_y, theta, beta (two draws).

        Beta is below 1 for one half of the images and above 1 for the other.
        """
        ksize = self.ksizes[int(rng.integers(len(self.ksizes)))]
        sinc = bool(rng.random() < self.sinc_probability)
        cutoff = rng.uniform(np.pi / (3 if ksize < _WIDE else 5), np.pi)
        names = list(self.kernels)
        kernel = names[int(rng.choice(len(names), p=list(self.kernels.values())))]
        sigma_x, sigma_y = rng.uniform(*self.sigma), rng.uniform(*self.sigma)
        theta = rng.uniform(-np.pi, np.pi)
        low, high = self.plateau_beta if kernel.startswith("plateau") else self.generalized_beta
        below, place = bool(rng.random() < 0.5), rng.random()
        if sinc:
            return {"kernel": "sinc", "ksize": ksize, "cutoff": cutoff}
        isotropic = not kernel.endswith("aniso")
        drawn = {
            "kernel": kernel,
            "ksize": ksize,
            "sigma_x": sigma_x,
            "sigma_y": sigma_x if isotropic else sigma_y,
            "theta": 0.0 if isotropic else theta,
        }
        if "_" in kernel:
            drawn["beta"] = low + (1 - low) * place if below else 1 + (high - 1) * place
        return drawn


def mixed_blur(image: FloatImage, kernel: Kernel | Literal["sinc"], **shape: Any) -> FloatImage:
    """(H, W, 3) float32 to the same, reflect-101 borders.

    `shape`: the arguments of that kernel's function in `degradations.kernels`. A sinc filter overshoots [0, 1].
    """
    weights = _KERNELS[kernel.removesuffix("_aniso").removesuffix("_iso")](**shape)
    return np.asarray(cv2.filter2D(image, -1, weights, borderType=cv2.BORDER_REFLECT_101), dtype=np.float32)


_KERNELS: dict[str, Callable[..., Weights]] = {
    "iso": gaussian_2d,
    "aniso": gaussian_2d,
    "generalized": generalized_2d,
    "plateau": plateau_2d,
    "sinc": sinc_2d,
}
