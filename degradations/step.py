"""What every step of a recipe has in common: frozen, checked ranges, and a way to draw from them."""

from abc import ABC, abstractmethod
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict

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


Range = Annotated[tuple[float, float], AfterValidator(_ordered)]
PositiveRange = Annotated[Range, AfterValidator(_above_zero)]


class Step(BaseModel, ABC):
    """One step of a recipe: the ranges it draws from, as data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> Params:
        """Draw this step's values for one image.

        The number and order of draws are fixed per step, whatever is drawn: the same generator state always
        leads to the same values.
        """
