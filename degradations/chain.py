"""From an HQ face to its LQ sample: draw a recipe's values, then run its steps.

The two halves are apart so that the recorded values alone rebuild the sample: `degrade` draws and replays, and
`replay` needs no recipe and no random generator.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from degradations.blur import blur
from degradations.errors import DegradationError
from degradations.images import FloatImage, Uint8Image, to_float, to_uint8
from degradations.jpeg import compress, encode_jpeg
from degradations.noise import add_noise
from degradations.recipes import Recipe, fit_step
from degradations.resample import downsample
from degradations.step import Params

STEP_FUNCTIONS: dict[str, Callable[..., FloatImage]] = {
    "blur": blur,
    "downsample": downsample,
    "noise": add_noise,
    "jpeg": compress,
}


@dataclass(frozen=True)
class Degraded:
    """An LQ sample.

    `jpeg`: the small image at its reduced size, as a file; `enlarge(decode_image(jpeg), R)` is what a network sees.
    `params`: JSON types only. `recipe` (name), `side` (of the small image, in pixels) and `steps`: in order, each with
    its `op` and the arguments of its function.
    """

    jpeg: bytes
    params: Params


def degrade(hq: Uint8Image, recipe: Recipe, rng: np.random.Generator) -> Degraded:
    """Spoil a face: (R, R, 3) uint8 RGB.

    Every random number comes from `rng`, step after step in the recipe's order and within a step in the order that
    its `draw` documents: the same generator state gives the same bytes, in any process. Where R is not 512 the blur
    scales with R / 512; factor, noise and quality do not.
    """
    _check_face(hq)
    steps = [{"op": step.op, **fit_step(step, hq.shape[0]).draw(rng)} for step in recipe.steps]
    jpeg, side = _run(hq, steps)
    return Degraded(jpeg, {"recipe": recipe.name, "side": side, "steps": steps})


def replay(hq: Uint8Image, params: Params) -> bytes:
    """The same JPEG again, from the same (R, R, 3) uint8 RGB face and the recorded parameters."""
    _check_face(hq)
    return _run(hq, params["steps"])[0]


def _run(hq: Uint8Image, steps: list[Params]) -> tuple[bytes, int]:
    """The JPEG that the last step makes, and the side of the image in it."""
    image = to_float(hq)
    for step in steps[:-1]:
        arguments = {name: value for name, value in step.items() if name != "op"}
        image = STEP_FUNCTIONS[step["op"]](image, **arguments)
    return encode_jpeg(to_uint8(image), steps[-1]["quality"]), image.shape[0]


def _check_face(hq: Uint8Image) -> None:
    if hq.dtype != np.uint8 or hq.ndim != 3 or hq.shape[0] != hq.shape[1] or hq.shape[2] != 3:
        raise DegradationError(f"A face is a square uint8 RGB image (R, R, 3), got {hq.dtype} {hq.shape}.")
