"""The steps as albumentations transforms, for pipelines that degrade while they load.

Thin on purpose: ranges, draws and arithmetic live with the steps, so that albumentations could be replaced. Each
transform takes (H, W, 3) RGB, uint8 or float32 in [0, 1], and returns the same dtype. Lengths are in pixels of the
image as it comes. Seed a pipeline with `compose(recipe).set_random_seed(n)`, or share one generator with
`set_random_state`.
"""

from typing import Any

import albumentations as A
import numpy as np

from degradations.blur import BlurStep
from degradations.chain import STEP_FUNCTIONS
from degradations.colour import ColourJitterStep, ColourShiftStep, GrayStep
from degradations.finish import SincJpegStep
from degradations.images import FloatImage, Uint8Image, to_float, to_uint8
from degradations.jpeg import JpegStep
from degradations.kernels import REFERENCE_SIDE
from degradations.mixed_blur import Kernel, MixedBlurStep
from degradations.motion_blur import MotionBlurStep
from degradations.noise import MixedNoiseStep, NoiseStep
from degradations.recipes import AnyStep, Recipe, fit_step
from degradations.resample import DownsampleStep, ResizeStep

Bounds = tuple[float, float]


class StepTransform(A.ImageOnlyTransform):  # type: ignore[misc]
    """What the transforms share: draw from the step, run its function, write the step down."""

    def __init__(self, step: AnyStep, p: float) -> None:
        super().__init__(p=p)
        self.step = step

    def should_apply(self, force_apply: bool = False) -> bool:
        """Draw from the generator that the values come from, as the chain does, instead of from a second one."""
        return force_apply or self.p == 1 or bool(self.random_generator.random() < self.p)

    def get_params(self) -> dict[str, Any]:
        """Values for one image."""
        return {"drawn": self.step.draw_values(self.random_generator)}

    def apply(self, img: Uint8Image | FloatImage, drawn: dict[str, Any], **_: object) -> Uint8Image | FloatImage:
        """(H, W, 3) RGB to (h, w, 3) RGB of the same dtype."""
        function = STEP_FUNCTIONS[self.step.op]
        if img.dtype == np.uint8:
            return to_uint8(function(to_float(img.astype(np.uint8, copy=False)), **drawn))
        return function(img.astype(np.float32, copy=False), **drawn)

    def get_transform_init_args(self) -> dict[str, Any]:
        """The constructor's arguments, for `A.to_dict`."""
        return self.step.model_dump(exclude={"op", "probability"})


class GaussianBlur(StepTransform):
    """Isotropic or rotated anisotropic Gaussian blur; sigmas and sides in pixels."""

    def __init__(
        self,
        sigma: Bounds,
        ksizes: tuple[int, ...] = (39, 41),
        isotropic_probability: float = 0.5,
        p: float = 1.0,
    ) -> None:
        step = BlurStep(sigma=sigma, ksizes=ksizes, isotropic_probability=isotropic_probability)
        super().__init__(step, p)


class MixedBlur(StepTransform):
    """Gaussian, generalized Gaussian or plateau-shaped blur, or a sinc filter; see `MixedBlurStep`."""

    def __init__(
        self,
        *,
        kernels: dict[Kernel, float],
        sigma: Bounds,
        ksizes: tuple[int, ...],
        generalized_beta: Bounds,
        plateau_beta: Bounds,
        sinc_probability: float,
        p: float = 1.0,
    ) -> None:
        step = MixedBlurStep(
            kernels=kernels,
            sigma=sigma,
            ksizes=ksizes,
            generalized_beta=generalized_beta,
            plateau_beta=plateau_beta,
            sinc_probability=sinc_probability,
        )
        super().__init__(step, p)


class MotionBlur(StepTransform):
    """A straight streak of any direction; its length in pixels."""

    def __init__(self, length: Bounds, p: float = 1.0) -> None:
        super().__init__(MotionBlurStep(length=length), p)


class Downsample(StepTransform):
    """Bilinear downsampling to side // r; the image stays small."""

    def __init__(self, r: Bounds, p: float = 1.0) -> None:
        super().__init__(DownsampleStep(r=r), p)


class Resize(StepTransform):
    """Up, down or neither, of the image as it comes or of `side` pixels; see `ResizeStep`."""

    def __init__(self, up: float, down: float, scale: Bounds, side: float | None = None, p: float = 1.0) -> None:
        super().__init__(ResizeStep(up=up, down=down, scale=scale, side=side), p)


class GaussianNoise(StepTransform):
    """Gaussian noise for each channel, sigma in levels of 255, clipped."""

    def __init__(self, sigma: Bounds, p: float = 1.0) -> None:
        super().__init__(NoiseStep(sigma=sigma), p)


class MixedNoise(StepTransform):
    """Gaussian or Poisson noise, of each channel or gray, clipped; see `MixedNoiseStep`."""

    def __init__(
        self, gaussian_probability: float, sigma: Bounds, scale: Bounds, gray_probability: float, p: float = 1.0
    ) -> None:
        step = MixedNoiseStep(
            gaussian_probability=gaussian_probability, sigma=sigma, scale=scale, gray_probability=gray_probability
        )
        super().__init__(step, p)


class JPEG(StepTransform):
    """What comes back from a JPEG file."""

    def __init__(self, quality: Bounds, p: float = 1.0) -> None:
        super().__init__(JpegStep(quality=quality), p)


class SincJPEG(StepTransform):
    """A sinc filter at the final side in pixels, before or after a JPEG file."""

    def __init__(
        self, side: float, ksizes: tuple[int, ...], sinc_probability: float, quality: Bounds, p: float = 1.0
    ) -> None:
        step = SincJpegStep(side=side, ksizes=ksizes, sinc_probability=sinc_probability, quality=quality)
        super().__init__(step, p)


class ColourShift(StepTransform):
    """Each channel shifted by up to `shift` levels of 255, clipped."""

    def __init__(self, shift: float, p: float = 1.0) -> None:
        super().__init__(ColourShiftStep(shift=shift), p)


class ColourJitter(StepTransform):
    """Brightness, contrast, saturation and hue, in random order; see `ColourJitterStep`."""

    def __init__(self, brightness: Bounds, contrast: Bounds, saturation: Bounds, hue: Bounds, p: float = 1.0) -> None:
        step = ColourJitterStep(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue)
        super().__init__(step, p)


class Gray(StepTransform):
    """Luma in all three channels."""

    def __init__(self, p: float = 1.0) -> None:
        super().__init__(GrayStep(), p)


_TRANSFORMS: dict[str, type[StepTransform]] = {
    "blur": GaussianBlur,
    "mixed_blur": MixedBlur,
    "motion_blur": MotionBlur,
    "downsample": Downsample,
    "resize": Resize,
    "noise": GaussianNoise,
    "mixed_noise": MixedNoise,
    "jpeg": JPEG,
    "sinc_jpeg": SincJPEG,
    "colour_shift": ColourShift,
    "colour_jitter": ColourJitter,
    "gray": Gray,
}


def compose(recipe: Recipe, side: int = REFERENCE_SIDE) -> A.Compose:
    """A recipe as an albumentations pipeline for faces of `side` pixels: HQ in, small LQ out."""
    return A.Compose([_transform(fit_step(step, side)) for step in recipe.steps])


def _transform(step: AnyStep) -> StepTransform:
    return _TRANSFORMS[step.op](**step.model_dump(exclude={"op", "probability"}), p=step.probability)
