"""Changes of colour that old and badly scanned photographs show: shifts, jitter, gray."""

from collections.abc import Callable
from typing import Annotated, Literal

import cv2
import numpy as np
from pydantic import AfterValidator, NonNegativeFloat

from degradations.images import FloatImage
from degradations.step import Params, Range, RecipeStep


class ColourShiftStep(RecipeStep):
    """Largest shift of a channel, in levels of 255."""

    op: Literal["colour_shift"] = "colour_shift"
    shift: NonNegativeFloat

    def draw_values(self, rng: np.random.Generator) -> Params:
        """Draws the shifts of red, green and blue, uniform on both sides of 0."""
        return {"shifts": rng.uniform(-self.shift, self.shift, 3).tolist()}


def shift_colours(image: FloatImage, shifts: tuple[float, float, float]) -> FloatImage:
    """(H, W, 3) float32 to the same, clipped to [0, 1]; `shifts` in levels of 255."""
    return np.clip(image + np.asarray(shifts, np.float32) / np.float32(255), 0, 1)


def _not_negative(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] < 0:
        raise ValueError(f"a factor is 0 or more, got {bounds}")
    return bounds


FactorRange = Annotated[Range, AfterValidator(_not_negative)]
Adjustment = Literal["brightness", "contrast", "saturation", "hue"]


class ColourJitterStep(RecipeStep):
    """Factors of brightness, contrast and saturation, and the turn of the hue (1 is once around)."""

    op: Literal["colour_jitter"] = "colour_jitter"
    brightness: FactorRange
    contrast: FactorRange
    saturation: FactorRange
    hue: Range

    def draw_values(self, rng: np.random.Generator) -> Params:
        """Draws, in this order: the order of the four adjustments, then the amount of each as they are listed here."""
        order = rng.permutation(4)
        ranges = {name: getattr(self, name) for name in ADJUSTMENTS}
        amounts = [(name, rng.uniform(*bounds)) for name, bounds in ranges.items()]
        return {"adjustments": [list(amounts[int(place)]) for place in order]}


def jitter_colours(image: FloatImage, adjustments: list[tuple[Adjustment, float]]) -> FloatImage:
    """(H, W, 3) float32 to the same: the adjustments in that order, each clipped to [0, 1]."""
    for name, amount in adjustments:
        image = np.clip(ADJUSTMENTS[name](image, np.float32(amount)), 0, 1)
    return image


class GrayStep(RecipeStep):
    """Makes an image gray; it has no values."""

    op: Literal["gray"] = "gray"

    def draw_values(self, rng: np.random.Generator) -> Params:  # noqa: ARG002 the signature of all steps
        """Draws nothing."""
        return {}


def make_gray(image: FloatImage) -> FloatImage:
    """(H, W, 3) float32 to the same: luma (ITU-R BT.601) in all three channels."""
    return np.repeat(_luma(image), 3, axis=2)


def _luma(image: FloatImage) -> FloatImage:
    """(H, W, 1)."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], dtype=np.float32)


def _adjust_brightness(image: FloatImage, factor: np.float32) -> FloatImage:
    return image * factor


def _adjust_contrast(image: FloatImage, factor: np.float32) -> FloatImage:
    mean = np.float32(_luma(image).mean())
    return mean + (image - mean) * factor


def _adjust_saturation(image: FloatImage, factor: np.float32) -> FloatImage:
    luma = _luma(image)
    return luma + (image - luma) * factor


def _turn_hue(image: FloatImage, turn: np.float32) -> FloatImage:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + turn * np.float32(360)) % np.float32(360)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), dtype=np.float32)


ADJUSTMENTS: dict[Adjustment, Callable[[FloatImage, np.float32], FloatImage]] = {
    "brightness": _adjust_brightness,
    "contrast": _adjust_contrast,
    "saturation": _adjust_saturation,
    "hue": _turn_hue,
}
"""The adjustments of torchvision's `ColorJitter`, by their names there."""
