"""What every step of a recipe has in common: frozen, checked ranges, and a way to draw from them."""

from abc import ABC, abstractmethod
from typing import Annotated, Any, Self

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Params = dict[str, Any]  # the drawn values of one step: JSON types only, keyword arguments of the step's function


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = bounds
    if not low <= high:
        raise ValueError(f"a range needs low <= high, got ({low}, {high})")
    return bounds


def _above_zero(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] <= 0:
        raise ValueError(f"this range starts above 0, got {bounds}")
    return bounds


def _odd(ksize: int) -> int:
    if ksize < 1 or ksize % 2 == 0:
        raise ValueError(f"a kernel side is an odd number of pixels, got {ksize}")
    return ksize


Range = Annotated[tuple[float, float], AfterValidator(_ordered)]
PositiveRange = Annotated[Range, AfterValidator(_above_zero)]
Ksizes = Annotated[tuple[Annotated[int, AfterValidator(_odd)], ...], Field(min_length=1)]
Probability = Annotated[float, Field(ge=0, le=1)]


class RecipeStep(BaseModel, ABC):
    """One step of a recipe: the ranges it draws from, as data, and the share of images that it is applied to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    probability: Probability = 1.0

    def draw(self, rng: np.random.Generator) -> Params | None:
        """Draw this step's values for one image, or None where it is left out.

        Whether it is left out is drawn first, and only if that is possible. The number and order of the other draws
        are fixed per step, whatever is drawn: the same generator state always leads to the same values.
        """
        if self.probability < 1 and rng.random() >= self.probability:
            return None
        return self.draw_values(rng)

    @abstractmethod
    def draw_values(self, rng: np.random.Generator) -> Params:
        """Draw the arguments of the step's function."""

    def scaled(self, scale: float) -> Self:  # noqa: ARG002 ratios and levels stay
        """The same step for an image `scale` times as large as the one that its lengths are stated for."""
        return self
