"""PSNR and SSIM of 8-bit images, as face restoration reports them: all three channels, no border crop."""

from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from daefr.metrics.base import exact_convolutions

PEAK = 255.0
WINDOW = 11
BORDER = WINDOW // 2


def psnr(image: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, (B,), of (B, 3, H, W) uint8 images; infinite where they agree."""
    value: Tensor = peak_signal_noise_ratio(
        image.double(), target.double(), data_range=PEAK, reduction="none", dim=(1, 2, 3)
    )
    return value


def ssim(image: Tensor, target: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004) in [-1, 1]: 11x11 Gaussian window of sigma 1.5, where it fits whole.

    Both images are (B, 3, H, W) uint8, at least 11 pixels a side; the channels are measured apart and averaged: (B,).
    """
    # float32 is off by 2e-5 on faces, 2e-4 where all is flat, but twenty times as fast as float64
    with exact_convolutions():
        _, values = structural_similarity_index_measure(
            image.float(), target.float(), sigma=1.5, data_range=PEAK, return_full_image=True
        )
    # the library reflects the image at its borders, and averages over those windows too
    inside: Tensor = values[..., BORDER:-BORDER, BORDER:-BORDER]
    return inside.mean((1, 2, 3))
