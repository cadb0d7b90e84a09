"""How the metrics feed images to a network, and how exactly it computes."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from daefr.settings.metrics import Protocol


def as_fed(images: Tensor, protocol: Protocol, *, centered: bool) -> Tensor:
    """Turn (B, 3, H, W) uint8 RGB into what a network gets: float32 in [-1, 1] if `centered`, in [0, 1] otherwise.

    Its channels are in BGR order under the paper's protocol, whose scripts took images as OpenCV reads them.
    """
    ordered = images.flip(1) if protocol == "paper" else images
    scaled = ordered.float() / 255
    return (scaled - 0.5) / 0.5 if centered else scaled


def exact_convolutions() -> AbstractContextManager[None]:
    """Return a context in which a GPU's convolutions keep float32's 24 bits, of which TF32 would drop 13.

    So the networks of the metrics see the same on every device.
    """
    context: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return context
