"""From an HQ face to its LQ sample: draw a recipe's values, then run its steps.

The two halves are apart so that the recorded values alone rebuild the sample: `degrade` draws and replays, and
`replay` needs no recipe and no random generator.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from degradations.blur import blur
from degradations.colour import jitter_colours, make_gray, shift_colours
from degradations.face import Face
from degradations.finish import sinc_and_jpeg
from degradations.images import FloatImage, Uint8Image, to_uint8
from degradations.jpeg import compress, encode_jpeg, encode_png
from degradations.mixed_blur import mixed_blur
from degradations.motion_blur import motion_blur
from degradations.noise import add_mixed_noise, add_noise
from degradations.recipes import Recipe, fit_step
from degradations.resample import downsample, resize
from degradations.step import Params

STEP_FUNCTIONS: dict[str, Callable[..., FloatImage]] = {
    "blur": blur,
    "mixed_blur": mixed_blur,
    "motion_blur": motion_blur,
    "downsample": downsample,
    "resize": resize,
    "noise": add_noise,
    "mixed_noise": add_mixed_noise,
    "jpeg": compress,
    "sinc_jpeg": sinc_and_jpeg,
    "colour_shift": shift_colours,
    "colour_jitter": jitter_colours,
    "gray": make_gray,
}


@dataclass(frozen=True)
class Degraded:
    """An LQ sample.

    `file`: the small image at its reduced size; `enlarge(decode_image(file), R)` is what a network sees. `suffix`: a
    JPEG where that was the last thing done to it, and so loses nothing, else a PNG. `params`: JSON types only.
    `recipe` (name), `side` (of the small image, in pixels) and `steps`: those that were applied, in order, each with
    its `op` and the arguments of its function.
    """

    file: bytes
    suffix: Literal["jpg", "png"]
    params: Params


def degrade(hq: Uint8Image | Face, recipe: Recipe, rng: np.random.Generator) -> Degraded:
    """Spoil a face: (R, R, 3) uint8 RGB, or a `Face` where it is to be spoilt several times.

    Every random number comes from `rng`, step after step in the recipe's order and within a step in the order that
    its `draw_values` documents: the same generator state gives the same bytes, in any process. Where R is not 512,
    lengths in pixels scale with R / 512; factors, levels and qualities do not.
    """
    face = hq if isinstance(hq, Face) else Face(hq)
    steps = []
    for step in recipe.steps:
        values = fit_step(step, face.side).draw(rng)
        if values is not None:
            steps.append({"op": step.op, **values})
    file, side = _run(face, steps)
    return Degraded(file, _suffix(steps), {"recipe": recipe.name, "side": side, "steps": steps})


def replay(hq: Uint8Image | Face, params: Params) -> bytes:
    """The same file again, from the same (R, R, 3) uint8 RGB face and the recorded parameters."""
    return _run(hq if isinstance(hq, Face) else Face(hq), params["steps"])[0]


def _suffix(steps: list[Params]) -> Literal["jpg", "png"]:
    return "jpg" if steps and steps[-1]["op"] == "jpeg" else "png"


def _run(face: Face, steps: list[Params]) -> tuple[bytes, int]:
    """The file that the steps lead to, and the side of the image in it."""
    jpeg = _suffix(steps) == "jpg"
    image = face.image
    for step in steps[:-1] if jpeg else steps:
        arguments = {name: value for name, value in step.items() if name != "op"}
        if step["op"] == "blur" and image is face.image:
            arguments["spectrum"] = face.spectrum(step["ksize"])
        image = STEP_FUNCTIONS[step["op"]](image, **arguments)
    levels = to_uint8(image)
    return encode_jpeg(levels, steps[-1]["quality"]) if jpeg else encode_png(levels), image.shape[0]
