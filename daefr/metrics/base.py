"""What the measures share: their names, the protocols, how images are fed to a network, and how exactly."""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

MeasureName = Literal["psnr", "ssim", "lpips", "fid", "niqe", "ida", "lmd"]
Protocol = Literal["paper", "standard"]


def as_fed(images: "Tensor", protocol: Protocol, *, centered: bool) -> "Tensor":
    """Turn (B, 3, H, W) uint8 RGB into what a network gets: float32 in [-1, 1] if `centered`, in [0, 1] otherwise.

    Its channels are in BGR order under the paper's protocol, whose scripts took images as OpenCV reads them.
    """
    ordered = images.flip(1) if protocol == "paper" else images
    scaled = ordered.float() / 255
    return (scaled - 0.5) / 0.5 if centered else scaled


def exact_convolutions() -> AbstractContextManager[None]:
    """Return a context in which a GPU's convolutions keep float32's 24 bits, of which TF32 would drop 13.

    So the networks of the measures see the same on every device.
    """
    import torch  # noqa: PLC0415  # a configuration holds these names and is read without it

    context: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return context
