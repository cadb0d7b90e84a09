"""Between 8-bit images and the tensors that networks take, RGB in [-1, 1]; and between devices and types."""

import numpy as np
import torch
from torch import Tensor

from daefr.images import Image

WITH_FLOAT64 = ("cpu", "cuda")
"""Types of devices that have float64; Apple's GPUs do not, nor do some of Intel's."""


def to_tensor(image: Image) -> Tensor:
    """Turn (H, W, 3) uint8 RGB into (3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float().div_(127.5).sub_(1.0)


def from_8_bit(images: Tensor, layout: torch.memory_format) -> Tensor:
    """Turn (B, R, R, 3) uint8 RGB, wherever it is, into (B, 3, R, R) float32 in [-1, 1], laid out as asked."""
    return images.permute(0, 3, 1, 2).to(torch.float32, memory_format=layout).div_(127.5).sub_(1.0)


def to_image(tensor: Tensor) -> Image:
    """Turn (3, H, W) in [-1, 1] into (H, W, 3) uint8 RGB, rounded, values outside clipped."""
    return to_8_bit(tensor).permute(1, 2, 0).contiguous().cpu().numpy()


def to_8_bit(tensor: Tensor) -> Tensor:
    """Turn values in [-1, 1] into uint8 of the same shape, rounded, values outside clipped."""
    return tensor.detach().float().add(1.0).mul(127.5).round().clamp(0, 255).byte()


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor; only CUDA orders a copy that is not waited for with what is computed of it."""
    return tensor.to(device, non_blocking=device.type == "cuda")


def where_float64_is(tensor: Tensor) -> Tensor:
    """Return a tensor on its own device if that has float64, or else on the CPU."""
    return tensor if tensor.device.type in WITH_FLOAT64 else tensor.cpu()


def to_float64(tensor: Tensor) -> Tensor:
    """Convert to float64; on the CPU where the tensor's device has none."""
    return where_float64_is(tensor).double()
