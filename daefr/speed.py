"""Networks and batches prepared for a device, by the options of `daefr.settings.speed`."""

from collections.abc import Mapping
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from daefr.memory import keep_freed_memory
from daefr.network.autoencoder import Level, Middle
from daefr.network.blocks import Upsample
from daefr.network.normalization import GroupNorm
from daefr.network.predictor import PredictorLayer
from daefr.settings.speed import Speed
from daefr.tensors import from_8_bit, to_device

M = TypeVar("M", bound=nn.Module)
IMAGE_DIMENSIONS = 4

COMPILED_PARTS = (Level, Middle, PredictorLayer)
"""What is compiled of a network.

Small enough for the last convolution to stay outside: a gradient of its weight alone must not run all of a compiled
network's backward pass.
"""


def prepare_network(module: M, speed: Speed, device: torch.device) -> M:
    """Move a network to a device, arrange its weights there, and compile its parts; names and values stay."""
    chosen = speed.on(device.type)
    module.to(device)
    if chosen.channels_last:
        module.to(memory_format=torch.channels_last)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = bool(chosen.cudnn_benchmark)
        if chosen.allow_tf32 is not None:
            # see `daefr.precision` for why not the newer fp32_precision
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = chosen.allow_tf32
    for part in module.modules():
        _choose_kernels(part, chosen)
        if isinstance(part, COMPILED_PARTS):
            _replace_forward(part, chosen)
    if chosen.retain_freed_memory:
        keep_freed_memory()
    return module


def arrange_batch(batch: Mapping[str, Tensor], speed: Speed, device: torch.device) -> dict[str, Tensor]:
    """Move a batch to a device and arrange its images there; other tensors are only moved.

    Images in 8 bits, as `daefr.data.dataset.training_batches` gives them, become float32 on the device.
    """
    layout = torch.channels_last if speed.on(device.type).channels_last else torch.contiguous_format
    moved = {name: to_device(tensor, device) for name, tensor in batch.items()}
    return {name: _arrange(tensor, layout) for name, tensor in moved.items()}


def autocast(speed: Speed, device: torch.device) -> torch.autocast:
    """Return the context in which networks and losses are computed on a device."""
    return torch.autocast(device.type, torch.bfloat16, enabled=speed.on(device.type).autocast == "bfloat16")


def _choose_kernels(part: nn.Module, chosen: Speed) -> None:
    if isinstance(part, GroupNorm):
        part.keep_channels_last = chosen.group_norm == "channels_last"
    elif isinstance(part, Upsample):
        part.transposed = chosen.upsample == "transposed"


def _replace_forward(part: nn.Module, chosen: Speed) -> None:
    # an earlier call may have replaced it
    part.__dict__.pop("forward", None)
    if chosen.compile:
        from daefr.compilation import compile_forward  # noqa: PLC0415  # importing the compiler takes seconds

        part.forward = compile_forward(part)
    if chosen.activation_checkpointing:
        part.forward = partial(checkpoint, part.forward, use_reentrant=False)


def _arrange(tensor: Tensor, layout: torch.memory_format) -> Tensor:
    if tensor.dtype == torch.uint8:
        return from_8_bit(tensor, layout)
    return tensor.contiguous(memory_format=layout) if tensor.dim() == IMAGE_DIMENSIONS else tensor
