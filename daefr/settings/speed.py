"""Options that make the same network faster: memory layout, arithmetic, compilation and what becomes of memory.

`daefr.speed` applies them.
"""

from typing import Any, Literal, Self

from pydantic import Field, field_validator

from daefr.errors import UserError
from daefr.settings.base import Settings


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

    def on(self, device_type: str) -> Self:
        """Return the same options with nothing left open, for a type of devices: `cuda`, `cpu`."""
        cuda = device_type == "cuda"
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

    def check_device(self, device_type: str) -> None:
        """Raise `UserError` for an option that devices of a type do not have."""
        if self.tf32 and device_type != "cuda":
            raise UserError(f"speed.tf32=true needs a GPU: there is no TF32 on {device_type}")
