"""The last step of Real-ESRGAN: a sinc filter's ringing and JPEG's blocks, in either order."""

from typing import Literal, Self

import cv2
import numpy as np
from pydantic import PositiveFloat

from degradations.images import FloatImage
from degradations.jpeg import Quality, compress
from degradations.kernels import sinc_2d
from degradations.resample import Filter, draw_filter, resize
from degradations.step import Ksizes, Params, Probability, RecipeStep


class SincJpegStep(RecipeStep):
    """The final side in pixels for a 512x512 face, the sinc kernels' sides and share, and the range of the quality."""

    op: Literal["sinc_jpeg"] = "sinc_jpeg"
    side: PositiveFloat
    ksizes: Ksizes
    sinc_probability: Probability
    quality: Quality

    def scaled(self, scale: float) -> Self:
        """The same for a face `scale` times as large."""
        return self.model_copy(update={"side": self.side * scale})

    def draw_values(self, rng: np.random.Generator) -> Params:
        """Draws, in this order: the order, the filter, the kernel side, the cutoff, sinc or not, the quality.

        A kernel side of 1 stands for no sinc filter.
        """
        jpeg_first = bool(rng.random() < 0.5)
        resampling = draw_filter(rng)
        ksize = self.ksizes[int(rng.integers(len(self.ksizes)))]
        cutoff = rng.uniform(np.pi / 3, np.pi)
        sinc = bool(rng.random() < self.sinc_probability)
        return {
            "jpeg_first": jpeg_first,
            "side": self.side,
            "filter": resampling,
            "ksize": ksize if sinc else 1,
            "cutoff": cutoff,
            "quality": int(rng.uniform(*self.quality)),
        }


def sinc_and_jpeg(
    image: FloatImage,
    *,
    jpeg_first: bool,
    side: float,
    filter: Filter,  # noqa: A002
    ksize: int,
    cutoff: float,
    quality: int,
) -> FloatImage:
    """(H, W, 3) float32 to (side, side, 3), clipped to [0, 1]: resized and filtered, and compressed before or after."""
    if jpeg_first:
        image = compress(image, quality)
    image = resize(image, 1.0, filter, side)
    weights = sinc_2d(ksize, cutoff)
    image = np.clip(cv2.filter2D(image, -1, weights, borderType=cv2.BORDER_REFLECT_101), 0, 1)
    return image if jpeg_first else compress(image, quality)
