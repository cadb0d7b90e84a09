"""The steps as albumentations transforms, for pipelines that degrade while they load.

Thin on purpose: ranges, draws and arithmetic live with the steps, so that albumentations could be replaced. Each
transform takes (H, W, 3) RGB, uint8 or float32 in [0, 1], and returns the same dtype. Seed a pipeline with
`compose(recipe).set_random_seed(n)`, or share one generator with `set_random_state`.
"""

from typing import Any

import albumentations as A
import numpy as np

from degradations.blur import BlurStep
from degradations.chain import STEP_FUNCTIONS
from degradations.images import FloatImage, Uint8Image, to_float, to_uint8
from degradations.jpeg import JpegStep
from degradations.noise import NoiseStep
from degradations.recipes import AnyStep, Recipe, fit_step
from degradations.resample import DownsampleStep


class StepTransform(A.ImageOnlyTransform):  # type: ignore[misc]
    """What the four transforms share: draw from the step, run its function, write the step down."""

    def __init__(self, step: AnyStep, p: float) -> None:
        super().__init__(p=p)
        self.step = step

    def get_params_dependent_on_data(
        self,
        params: dict[str, Any],
        data: dict[str, Any],  # noqa: ARG002 the base class's signature
    ) -> dict[str, Any]:
        """Values for one image; the blur scales with the image's shorter side over 512."""
        step = fit_step(self.step, min(params["shape"][:2]))
        return {"drawn": step.draw(self.random_generator)}

    def apply(self, img: Uint8Image | FloatImage, drawn: dict[str, Any], **_: object) -> Uint8Image | FloatImage:
        """(H, W, 3) RGB to (h, w, 3) RGB of the same dtype."""
        function = STEP_FUNCTIONS[self.step.op]
        if img.dtype == np.uint8:
            return to_uint8(function(to_float(img.astype(np.uint8, copy=False)), **drawn))
        return function(img.astype(np.float32, copy=False), **drawn)

    def get_transform_init_args(self) -> dict[str, Any]:
        """The constructor's arguments, for `A.to_dict`."""
        return self.step.model_dump(exclude={"op"})


class GaussianBlur(StepTransform):
    """Isotropic or rotated anisotropic Gaussian blur; sigmas and sides in pixels of a 512x512 image."""

    def __init__(
        self,
        sigma: tuple[float, float],
        ksizes: tuple[int, ...] = (39, 41),
        isotropic_probability: float = 0.5,
        p: float = 1.0,
    ) -> None:
        step = BlurStep(sigma=sigma, ksizes=ksizes, isotropic_probability=isotropic_probability)
        super().__init__(step, p)


class Downsample(StepTransform):
    """Bilinear downsampling to side // r; the image stays small."""

    def __init__(self, r: tuple[float, float], p: float = 1.0) -> None:
        super().__init__(DownsampleStep(r=r), p)


class GaussianNoise(StepTransform):
    """Gaussian noise for each channel, sigma in levels of 255, clipped."""

    def __init__(self, sigma: tuple[float, float], p: float = 1.0) -> None:
        super().__init__(NoiseStep(sigma=sigma), p)


class JPEG(StepTransform):
    """What comes back from a JPEG file."""

    def __init__(self, quality: tuple[float, float], p: float = 1.0) -> None:
        super().__init__(JpegStep(quality=quality), p)


_TRANSFORMS: dict[str, type[StepTransform]] = {
    "blur": GaussianBlur,
    "downsample": Downsample,
    "noise": GaussianNoise,
    "jpeg": JPEG,
}


def compose(recipe: Recipe) -> A.Compose:
    """A recipe as an albumentations pipeline: HQ in, small LQ out."""
    return A.Compose([_TRANSFORMS[step.op](**step.model_dump(exclude={"op"})) for step in recipe.steps])
