"""A face that is degraded several times: what its samples share is computed once."""

from functools import cached_property

import numpy as np

from degradations.errors import DegradationError
from degradations.fourier import Spectrum, margin_for
from degradations.images import FloatImage, Uint8Image, to_float


class Face:
    """An HQ face, (R, R, 3) uint8 RGB; raises `DegradationError` for anything else.

    A sample is the same whether its face was degraded before or not; it only takes less time.
    """

    def __init__(self, pixels: Uint8Image) -> None:
        """Keep the pixels, which must not be changed after."""
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[0] != pixels.shape[1] or pixels.shape[2] != 3:
            raise DegradationError(f"A face is a square uint8 RGB image (R, R, 3), got {pixels.dtype} {pixels.shape}.")
        self.pixels = pixels
        self.side: int = pixels.shape[0]
        self._spectra: dict[int, Spectrum] = {}

    @cached_property
    def image(self) -> FloatImage:
        """(R, R, 3) float32 in [0, 1]; read-only."""
        image = to_float(self.pixels)
        image.flags.writeable = False
        return image

    def spectrum(self, ksize: int) -> Spectrum:
        """The transform that kernels of that side blur with."""
        margin = margin_for(ksize)
        if margin not in self._spectra:
            self._spectra[margin] = Spectrum(self.image, margin)
        return self._spectra[margin]
