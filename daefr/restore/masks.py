"""Which part of an aligned crop is pasted back: a soft mask, (512, 512) float32 from 0 to 1, that is 0 at its border.

It covers the whole crop, however many pixels that has, and is not to be written to.
"""

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from daefr.errors import UserError
from daefr.images import Image
from daefr.published import Published
from daefr.tensors import to_tensor

Mask = npt.NDArray[np.float32]

MASK_SIDE = 512

PARSENET = Published(
    name="parsing_parsenet.pth",
    url="https://github.com/xinntao/facexlib/releases/download/v0.2.2/parsing_parsenet.pth",
    sha256="3d558d8d0e42c20224f13cf5a29c79eba2d59913419f945545d8cf7b72920de2",
)
PARSENET_CLASSES = 19
PASTED_CLASSES = (*range(1, 14), 15)
"""Skin, nose, glasses, eyes, brows, ears, mouth, lips, hair and earrings; not the background, hat, neck and clothes."""
SOFTNESS = 11.0
"""Of the parsed mask's edge: the deviation of its blur, in pixels of the mask."""
MIN_PARSED_SHARE = 0.3
"""A parsed mask that covers less of the face's oval is a mistake of the parser."""


@cache
def whole_mask() -> Mask:
    """Return the mask of a crop as a whole: a square with round corners, whose outer part fades out."""
    return _oval(centre=(0.5, 0.5), radii=(0.5, 0.5), power=4, fade=0.3)


@cache
def face_mask() -> Mask:
    """Return the mask of the face alone, as the template has it: the oval from the forehead to the chin."""
    return _oval(centre=(0.5, 0.58), radii=(0.33, 0.42), power=2, fade=0.4)


class FaceParser:
    """Finds face and hair in restored crops: facexlib's ParseNet."""

    def __init__(self, network: torch.nn.Module, device: torch.device) -> None:
        """Use a `facexlib.parsing.ParseNet` of 512 pixels with its weights filled; `load` makes one."""
        self._network, self._device = network.to(device).eval(), device

    @classmethod
    def load(cls, path: Path, device: torch.device) -> "FaceParser":
        """Load ParseNet's weights. Raises `UserError` when they are missing or others."""
        # facexlib takes seconds to import
        from facexlib.parsing import ParseNet  # noqa: PLC0415

        if not path.is_file():
            raise UserError(f"there are no weights of a face parser at {path}: {PARSENET.url} has them")
        network = ParseNet(in_size=MASK_SIDE, out_size=MASK_SIDE, parsing_ch=PARSENET_CLASSES)
        PARSENET.fill(network, PARSENET.tensors(path), path)
        return cls(network, device)

    def __call__(self, crop: Image) -> Mask:
        """Return the mask of the face in a crop (S, S, 3) uint8 RGB; where it finds none, that of the whole crop."""
        resized = np.asarray(cv2.resize(crop, (MASK_SIDE, MASK_SIDE), interpolation=cv2.INTER_LINEAR), np.uint8)
        with torch.inference_mode():
            scores, _ = self._network(to_tensor(resized)[None].to(self._device))
        classes = scores[0].argmax(0).cpu().numpy()
        pasted = np.isin(classes, PASTED_CLASSES).astype(np.float32)
        if (pasted * face_mask()).sum() < MIN_PARSED_SHARE * face_mask().sum():
            return whole_mask()
        return np.asarray(cv2.GaussianBlur(pasted, (0, 0), SOFTNESS) * whole_mask(), np.float32)


def find_parser(path: Path | None) -> Path | None:
    """Return where ParseNet's weights are: at `path`, or without one in torch's cache, if they are there."""
    cached = Path(torch.hub.get_dir()) / "checkpoints" / PARSENET.name
    return path or (cached if cached.is_file() else None)


def _oval(centre: tuple[float, float], radii: tuple[float, float], power: float, fade: float) -> Mask:
    """Return 1 inside of a superellipse, 0 outside, and a smooth step in its outer part, `fade` of the radius wide."""
    place = (np.arange(MASK_SIDE) + 0.5) / MASK_SIDE
    x, y = np.abs(place - centre[0]) / radii[0], np.abs(place - centre[1]) / radii[1]
    radius = (x[None, :] ** power + y[:, None] ** power) ** (1 / power)
    step = np.clip((1 - radius) / fade, 0, 1)
    mask = np.asarray(step * step * (3 - 2 * step), np.float32)
    # where it ends it is nothing, so that nothing beyond it is touched
    mask[[0, -1]] = mask[:, [0, -1]] = 0
    mask.flags.writeable = False
    return mask
