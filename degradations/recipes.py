"""Named recipes: which steps spoil a face, in which order, with which ranges, and where that was published."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from degradations.blur import BlurStep
from degradations.colour import ColourJitterStep, ColourShiftStep, GrayStep
from degradations.errors import UnknownRecipeError
from degradations.finish import SincJpegStep
from degradations.jpeg import JpegStep
from degradations.kernels import REFERENCE_SIDE
from degradations.mixed_blur import Kernel, MixedBlurStep
from degradations.motion_blur import MotionBlurStep
from degradations.noise import MixedNoiseStep, NoiseStep
from degradations.resample import DownsampleStep, ResizeStep

AnyStep = Annotated[
    BlurStep
    | MixedBlurStep
    | MotionBlurStep
    | DownsampleStep
    | ResizeStep
    | NoiseStep
    | MixedNoiseStep
    | JpegStep
    | SincJpegStep
    | ColourShiftStep
    | ColourJitterStep
    | GrayStep,
    Field(discriminator="op"),
]


def fit_step(step: AnyStep, side: int) -> AnyStep:
    """The step for a face of that side: lengths in pixels scale with side / 512, ratios and levels do not."""
    return step if side == REFERENCE_SIDE else step.scaled(side / REFERENCE_SIDE)


class Recipe(BaseModel):
    """Steps in the order in which they are drawn and applied; any step may occur more than once.

    `source` names the publication and the file of its authors that has the numbers, and what is done otherwise here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    source: str
    steps: tuple[AnyStep, ...] = Field(min_length=1)


_DAEFR = "Tsai, Liu, Qi, Chan, Yang, Dual Associated Encoder for Face Restoration, ICLR 2024, arXiv 2308.07314"
_REAL_ESRGAN_KERNELS: dict[Kernel, float] = {
    "iso": 0.45,
    "aniso": 0.25,
    "generalized_iso": 0.12,
    "generalized_aniso": 0.03,
    "plateau_iso": 0.12,
    "plateau_aniso": 0.03,
}
_REAL_ESRGAN_KSIZES = tuple(range(7, 22, 2))

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
        Recipe(
            name="gfpgan",
            source=(
                "Wang, Li, Zhang, Shan, Towards Real-World Blind Face Restoration with Generative Facial Prior, "
                "CVPR 2021, arXiv 2101.04061; numbers of TencentARC/GFPGAN, options/train_gfpgan_v1.yml, with the "
                "jitter's ranges of gfpgan/data/ffhq_degradation_dataset.py. Colours change at the reduced size, "
                "there after enlarging"
            ),
            steps=(
                BlurStep(sigma=(0.1, 10), ksizes=(41,)),
                DownsampleStep(r=(0.8, 8)),
                NoiseStep(sigma=(0, 20)),
                JpegStep(quality=(60, 100)),
                ColourShiftStep(shift=20, probability=0.3),
                GrayStep(probability=0.01),
                ColourJitterStep(
                    brightness=(0.5, 1.5), contrast=(0.5, 1.5), saturation=(0, 1.5), hue=(-0.1, 0.1), probability=0.3
                ),
            ),
        ),
        Recipe(
            name="codeformer",
            source=(
                "Zhou, Chan, Li, Loy, Towards Robust Blind Face Restoration with Codebook Lookup Transformer, NeurIPS "
                "2022, arXiv 2206.11253; numbers of sczhou/CodeFormer, options/CodeFormer_stage2.yml, whose motion "
                "blur is switched off"
            ),
            steps=(
                BlurStep(sigma=(1, 15), ksizes=(41,)),
                DownsampleStep(r=(4, 30)),
                NoiseStep(sigma=(0, 20)),
                JpegStep(quality=(30, 80)),
            ),
        ),
        Recipe(
            name="real-esrgan",
            source=(
                "Wang, Xie, Dong, Shan, Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic "
                "Data, ICCVW 2021, arXiv 2107.10833; numbers of xinntao/Real-ESRGAN, "
                "options/train_realesrgan_x4plus.yml, with the kernels' sides of realesrgan/data/realesrgan_dataset.py "
                "and the order of realesrgan/models/realesrgan_model.py. The HQ image is not sharpened first"
            ),
            steps=(
                MixedBlurStep(
                    kernels=_REAL_ESRGAN_KERNELS,
                    sigma=(0.2, 3),
                    ksizes=_REAL_ESRGAN_KSIZES,
                    generalized_beta=(0.5, 4),
                    plateau_beta=(1, 2),
                    sinc_probability=0.1,
                ),
                ResizeStep(up=0.2, down=0.7, scale=(0.15, 1.5)),
                MixedNoiseStep(gaussian_probability=0.5, sigma=(1, 30), scale=(0.05, 3), gray_probability=0.4),
                JpegStep(quality=(30, 95)),
                MixedBlurStep(
                    probability=0.8,
                    kernels=_REAL_ESRGAN_KERNELS,
                    sigma=(0.2, 1.5),
                    ksizes=_REAL_ESRGAN_KSIZES,
                    generalized_beta=(0.5, 4),
                    plateau_beta=(1, 2),
                    sinc_probability=0.1,
                ),
                ResizeStep(up=0.3, down=0.4, scale=(0.3, 1.2), side=REFERENCE_SIDE / 4),
                MixedNoiseStep(gaussian_probability=0.5, sigma=(1, 25), scale=(0.05, 2.5), gray_probability=0.4),
                SincJpegStep(
                    side=REFERENCE_SIDE / 4, ksizes=_REAL_ESRGAN_KSIZES, sinc_probability=0.8, quality=(30, 95)
                ),
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
