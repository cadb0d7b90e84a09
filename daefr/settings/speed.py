"""Options that make the same network faster: memory layout, arithmetic, compilation and what becomes of memory.

`daefr.speed` applies them.
"""

from typing import Literal, Self

from pydantic import Field

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

    channels_last: bool | None = Field(
        None,
        description="Whether images and weights are stored channels-last in memory. By default, with CUDA only.",
    )
    autocast: Literal["bfloat16", "off"] | None = Field(
        None,
        description="Type of convolutions and matrix products; weights, losses and codebook stay in float32. By "
        "default, bfloat16 with CUDA and off elsewhere.",
    )
    compile: bool | None = Field(
        None, description="Whether the networks' levels are compiled with torch.compile. By default, with CUDA only."
    )
    retain_freed_memory: bool | None = Field(
        None,
        description="Whether memory that tensors free is kept for later tensors rather than returned to the operating "
        "system. By default, on CPUs; GPUs always do.",
    )
    cudnn_benchmark: bool | None = Field(
        None,
        description="Whether cuDNN times its algorithms once per shape and uses the fastest, in the entire process; "
        "results then differ in rounding between runs. By default, with CUDA.",
    )
    group_norm: Literal["torch", "channels_last"] | None = Field(
        None,
        description="Implementation of group normalization: PyTorch's kernel, or operations that keep the "
        "channels-last memory layout. By default, torch.",
    )
    upsample: Literal["transposed", "nearest"] | None = Field(
        None,
        description="Implementation of upsampling: one transposed convolution, or nearest-neighbour upsampling "
        "followed by a 3x3 convolution. By default, transposed.",
    )
    activation_checkpointing: bool = Field(
        False,
        description="Whether activations are recomputed in the backward pass rather than stored, which saves memory "
        "and costs time.",
    )
    allow_tf32: bool | None = Field(
        None,
        description="Whether float32 products are computed in TF32 on GPUs, in the entire process. By default, "
        "PyTorch's own setting applies.",
    )

    def on(self, device_type: str) -> Self:
        """Return the same options with nothing left open, for a type of devices: `cuda`, `cpu`, `mps`, `xpu`.

        What suits Apple's and Intel's GPUs is not measured: they compute plainly, in float32.
        """
        cuda = device_type == "cuda"
        chosen = {
            # for which some of Apple's convolutions have given wrong results
            "channels_last": (cuda if self.channels_last is None else self.channels_last) and device_type != "mps",
            "autocast": self.autocast or ("bfloat16" if cuda else "off"),
            "compile": cuda if self.compile is None else self.compile,
            "retain_freed_memory": device_type == "cpu"
            if self.retain_freed_memory is None
            else self.retain_freed_memory,
            "cudnn_benchmark": cuda if self.cudnn_benchmark is None else self.cudnn_benchmark,
            "group_norm": self.group_norm or "torch",
            "upsample": self.upsample or "transposed",
        }
        return self.model_copy(update=chosen)

    def check_device(self, device_type: str) -> None:
        """Raise `UserError` for an option that devices of a type do not have."""
        if self.allow_tf32 and device_type != "cuda":
            raise UserError(f"speed.allow_tf32=true requires a GPU: there is no TF32 on {device_type}")
