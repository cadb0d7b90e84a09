"""The names of measures and protocols, and how images are fed to a network under either protocol."""

from typing import Literal

from torch import Tensor

MeasureName = Literal["psnr", "ssim", "lpips", "fid", "niqe", "ida", "lmd"]
Protocol = Literal["paper", "standard"]


def as_fed(images: Tensor, protocol: Protocol, *, centered: bool) -> Tensor:
    """Turn (B, 3, H, W) uint8 RGB into what a network gets: float32 in [-1, 1] if `centered`, in [0, 1] otherwise.

    Its channels are in BGR order under the paper's protocol, whose scripts took images as OpenCV reads them.
    """
    ordered = images.flip(1) if protocol == "paper" else images
    scaled = ordered.float() / 255
    return (scaled - 0.5) / 0.5 if centered else scaled
