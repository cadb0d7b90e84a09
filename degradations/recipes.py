"""Named recipes: which steps spoil a face, in which order, with which ranges."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from degradations.blur import BlurStep
from degradations.errors import UnknownRecipeError
from degradations.jpeg import JpegStep
from degradations.kernels import REFERENCE_SIDE
from degradations.noise import NoiseStep
from degradations.resample import DownsampleStep

AnyStep = Annotated[BlurStep | DownsampleStep | NoiseStep | JpegStep, Field(discriminator="op")]


def fit_step(step: AnyStep, side: int) -> AnyStep:
    """The step for an image of that side: lengths in pixels scale with side / 512, ratios and levels do not."""
    return step.scaled(side / REFERENCE_SIDE) if isinstance(step, BlurStep) else step


class Recipe(BaseModel):
    """Steps in the order in which they are drawn and applied; any step may occur more than once.

    JPEG comes last: then the small JPEG is the LQ sample itself, without loss.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    source: str
    steps: tuple[AnyStep, ...]

    @model_validator(mode="after")
    def _ends_with_jpeg(self) -> Self:
        if not self.steps or not isinstance(self.steps[-1], JpegStep):
            raise ValueError(f"recipe {self.name!r} must end with a jpeg step")
        return self


_DAEFR = "Tsai, Liu, Qi, Chan, Yang, Dual Associated Encoder for Face Restoration, ICLR 2024, arXiv 2308.07314"

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="daefr-mild",
            source=f"{_DAEFR}: LQ codebook and association stages",
            steps=(
                BlurStep(sigma=(0.1, 10)),
                DownsampleStep(r=(0.8, 8)),
                NoiseStep(sigma=(0, 20)),
                JpegStep(quality=(60, 100)),
            ),
        ),
        Recipe(
            name="daefr-severe",
            source=f"{_DAEFR}: restoration stage",
            steps=(
                BlurStep(sigma=(0.1, 15)),
                DownsampleStep(r=(0.8, 30)),
                NoiseStep(sigma=(0, 20)),
                JpegStep(quality=(30, 100)),
            ),
        ),
    )
}


def get_recipe(name: str) -> Recipe:
    """The recipe of that name, or an UnknownRecipeError that lists the names."""
    try:
        return RECIPES[name]
    except KeyError:
        raise UnknownRecipeError(f"Unknown recipe {name!r}; choose one of: {', '.join(RECIPES)}.") from None
