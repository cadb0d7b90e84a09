"""Between a photograph's own colours and sRGB, which is what the network knows."""

import io
from typing import Literal

import numpy as np
import PIL.Image
import PIL.ImageCms

from daefr.images import Image

ROWS = 512
"""Of a photograph, which are converted at a time, so that memory is bounded."""

Transform = PIL.ImageCms.ImageCmsTransform
Profile = PIL.ImageCms.ImageCmsProfile


class Colours:
    """The colours of an ICC profile; None is sRGB, and so is one that is damaged or of another kind of image.

    `is_one_way`: the profile, such as a scanner's, says how its colours become sRGB, but not the way back.
    """

    def __init__(self, profile: bytes | None, *, is_gray: bool = False) -> None:
        own = None if profile is None else _open(profile)
        srgb = _standard("sRGB")
        self._mode = "L" if is_gray and own is not None and own.profile.xcolor_space == "GRAY" else "RGB"
        self._there = None if own is None else _build(own, srgb, self._mode, "RGB")
        self._back = None if own is None or self._there is None else _build(srgb, own, "RGB", self._mode)
        self.is_one_way = self._there is not None and self._back is None

    def to_srgb(self, image: Image) -> Image:
        """Convert (H, W, 3) uint8 to RGB of sRGB."""
        return _apply(self._there, image, self._mode)

    def from_srgb(self, image: Image) -> Image:
        """Convert (H, W, 3) uint8 RGB of sRGB to these colours."""
        return _apply(self._back, image, "RGB")


def mixed_to_srgb(image: PIL.Image.Image, profile: bytes | None) -> PIL.Image.Image:
    """Convert an image of CMYK or LAB to RGB of sRGB; CMYK by its profile, or without one as Pillow does it."""
    if image.mode == "LAB":
        own: Profile | None = _standard("LAB")
    else:
        own = None if profile is None else _open(profile)
    transform = None if own is None else _build(own, _standard("sRGB"), image.mode, "RGB")
    return image.convert("RGB") if transform is None else PIL.ImageCms.applyTransform(image, transform) or image


def _open(profile: bytes) -> Profile | None:
    try:
        return PIL.ImageCms.ImageCmsProfile(io.BytesIO(profile))
    except (PIL.ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _standard(name: Literal["sRGB", "LAB"]) -> Profile:
    return Profile(PIL.ImageCms.createProfile(name))


def _build(source: Profile, target: Profile, mode: str, target_mode: str) -> Transform | None:
    try:
        return PIL.ImageCms.buildTransform(source, target, mode, target_mode)
    except (PIL.ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _apply(transform: Transform | None, image: Image, mode: str) -> Image:
    if transform is None:
        return image
    result = np.empty_like(image)
    for top in range(0, len(image), ROWS):
        part = np.ascontiguousarray(image[top : top + ROWS, :, 0] if mode == "L" else image[top : top + ROWS])
        converted = np.asarray(PIL.ImageCms.applyTransform(PIL.Image.fromarray(part), transform))
        result[top : top + ROWS] = converted.reshape(*part.shape[:2], -1)
    return result
