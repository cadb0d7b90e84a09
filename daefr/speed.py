"""Options that make the same network faster: memory layout, arithmetic, compilation and what becomes of memory."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import Field, field_validator

from daefr.errors import UserError
from daefr.memory import keep_freed_memory
from daefr.settings.base import Settings
from daefr.tensors import from_8_bit

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

M = TypeVar("M", bound="nn.Module")
IMAGE_DIMENSIONS = 4


class Speed(Settings):
    """How the networks are computed; None is what suits the device.

    On CUDA the first three are on, which is what such devices are built for. On a CPU
    only memory is kept, as measured on 2 cores: that takes a quarter off a training step at 256x256. Channels-last
    makes the forward pass faster (restoration of 512x512 images by half, which is why `daefr.restore` has it on), but
    normalizations and gradients of weights slower, so that a training step takes 1.1 times as long; bfloat16 autocast
    takes 4 times as long; compilation takes longer to start than a small training lasts.
    """

    channels_last: bool | None = Field(None, description="Keep the channels of a pixel together in memory.")
    autocast: Literal["bfloat16", "off"] | None = Field(
        None, description="Type of the convolutions and products; weights, losses and codebook stay in float32."
    )
    compile: bool | None = Field(None, description="Compile the levels of the networks with torch.compile.")
    keep_memory: bool | None = Field(
        None, description="Keep what tensors freed for the next ones, on a CPU; GPUs always do."
    )
    cudnn_benchmark: bool | None = Field(
        None, description="Let cuDNN time its algorithms once per shape, in the whole process; not reproducible."
    )
    group_norm: Literal["torch", "channels_last"] | None = Field(
        None, description="PyTorch's kernel, or operations that keep the channels of a pixel together in memory."
    )
    upsample: Literal["transposed", "nearest"] | None = Field(
        None, description="One transposed convolution, or nearest-neighbour upsampling and a 3x3 convolution."
    )
    recompute: bool = Field(
        False, description="Compute the levels again in the backward pass rather than keep what they hold: less memory."
    )
    tf32: bool | None = Field(
        None, description="Round float32 products to TF32 on a GPU, in the whole process; by default as torch does."
    )

    @field_validator("autocast", mode="before")
    @classmethod
    def _read_yaml(cls, value: Any) -> Any:
        # YAML takes a bare off for false
        return "off" if value is False else value

    def on(self, device: "torch.device") -> "Speed":
        """Return the same options with nothing left open."""
        cuda = device.type == "cuda"
        chosen = {
            "channels_last": cuda if self.channels_last is None else self.channels_last,
            "autocast": self.autocast or ("bfloat16" if cuda else "off"),
            "compile": cuda if self.compile is None else self.compile,
            "keep_memory": not cuda if self.keep_memory is None else self.keep_memory,
            "cudnn_benchmark": cuda if self.cudnn_benchmark is None else self.cudnn_benchmark,
            "group_norm": self.group_norm or "torch",
            "upsample": self.upsample or "transposed",
        }
        return self.model_copy(update=chosen)

    def check_device(self, device: "torch.device") -> None:
        """Raise `UserError` for an option that a device has not."""
        if self.tf32 and device.type != "cuda":
            raise UserError(f"speed.tf32=true needs a GPU: there is no TF32 on {device.type}")

    def prepare(self, module: M, device: "torch.device") -> M:
        """Move a network to a device, arrange its weights there, and compile its parts; names and values stay."""
        # a configuration holds these options and is read without PyTorch
        import torch  # noqa: PLC0415

        chosen = self.on(device)
        module.to(device)
        if chosen.channels_last:
            module.to(memory_format=torch.channels_last)
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = bool(chosen.cudnn_benchmark)
            if chosen.tf32 is not None:
                # see `daefr.precision` for why not the newer fp32_precision
                torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = chosen.tf32
        for part in module.modules():
            chosen._choose_kernels(part)
            if isinstance(part, compiled_parts()):
                chosen._replace_forward(part)
        if chosen.keep_memory:
            keep_freed_memory()
        return module

    def _choose_kernels(self, part: "nn.Module") -> None:
        from daefr.network.blocks import Upsample  # noqa: PLC0415
        from daefr.network.normalization import GroupNorm  # noqa: PLC0415

        if isinstance(part, GroupNorm):
            part.keep_channels_last = self.group_norm == "channels_last"
        elif isinstance(part, Upsample):
            part.transposed = self.upsample == "transposed"

    def _replace_forward(self, part: "nn.Module") -> None:
        from torch.utils.checkpoint import checkpoint  # noqa: PLC0415

        # an earlier call may have replaced it
        part.__dict__.pop("forward", None)
        if self.compile:
            from daefr.compilation import compile_forward  # noqa: PLC0415  # imports the compiler

            part.forward = compile_forward(part)
        if self.recompute:
            part.forward = partial(checkpoint, part.forward, use_reentrant=False)

    def arrange(self, batch: "Mapping[str, Tensor]", device: "torch.device") -> "dict[str, Tensor]":
        """Move a batch to a device and arrange its images there; other tensors are only moved.

        Images in 8 bits, as `daefr.data.dataset.training_batches` gives them, become float32 on the device.
        """
        import torch  # noqa: PLC0415

        layout = torch.channels_last if self.on(device).channels_last else torch.contiguous_format
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        return {name: _arrange(tensor, layout) for name, tensor in moved.items()}

    def autocast_on(self, device: "torch.device") -> "torch.autocast":
        """Return the context in which networks and losses are computed on a device."""
        import torch  # noqa: PLC0415

        return torch.autocast(device.type, torch.bfloat16, enabled=self.on(device).autocast == "bfloat16")


def compiled_parts() -> "tuple[type[nn.Module], ...]":
    """Return what is compiled of a network.

    Small enough for the last convolution to stay outside: a gradient of its weight alone must not run all of a compiled
    network's backward pass.
    """
    from daefr.network.autoencoder import Level, Middle  # noqa: PLC0415
    from daefr.network.predictor import PredictorLayer  # noqa: PLC0415

    return Level, Middle, PredictorLayer


def _arrange(tensor: "Tensor", layout: "torch.memory_format") -> "Tensor":
    import torch  # noqa: PLC0415

    if tensor.dtype == torch.uint8:
        return from_8_bit(tensor, layout)
    return tensor.contiguous(memory_format=layout) if tensor.dim() == IMAGE_DIMENSIONS else tensor
