"""Between a photograph's own colours and sRGB, which is what the network knows."""

import io

import numpy as np
import PIL.Image
import PIL.ImageCms

from daefr.images import Image


class Colours:
    """The colours of an ICC profile; None is sRGB. A profile that cannot be used both ways is taken for sRGB."""

    def __init__(self, profile: bytes | None) -> None:
        self._there, self._back = _transforms(profile)

    def to_srgb(self, image: Image) -> Image:
        """Convert (H, W, 3) uint8 to RGB of sRGB."""
        return _apply(self._there, image)

    def from_srgb(self, image: Image) -> Image:
        """Convert (H, W, 3) uint8 RGB of sRGB to these colours."""
        return _apply(self._back, image)


def _transforms(
    profile: bytes | None,
) -> tuple[PIL.ImageCms.ImageCmsTransform | None, PIL.ImageCms.ImageCmsTransform | None]:
    if profile is None:
        return None, None
    try:
        own = PIL.ImageCms.ImageCmsProfile(io.BytesIO(profile))
        srgb = PIL.ImageCms.createProfile("sRGB")
        return (
            PIL.ImageCms.buildTransform(own, srgb, "RGB", "RGB"),
            PIL.ImageCms.buildTransform(srgb, own, "RGB", "RGB"),
        )
    except (PIL.ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None, None


def _apply(transform: PIL.ImageCms.ImageCmsTransform | None, image: Image) -> Image:
    if transform is None:
        return image
    converted = PIL.ImageCms.applyTransform(PIL.Image.fromarray(image), transform)
    return np.array(converted)
