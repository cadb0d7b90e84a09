"""The one precision in which everything is computed that a comparison of models reads: float32, on every device.

Training may run in bfloat16, with TF32 and compiled, where rounding differs from device to device by more than models
do that are compared. Validation and evaluation do not: a GPU and a CPU agree there to the order of additions.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def evaluation_precision(device: torch.device) -> Iterator[None]:
    """Compute in float32 while a block runs: no autocast, no TF32, nothing compiled, no choice of algorithms by time.

    The settings are the process's; they are restored at the end of the block.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, enabled=False))
        if device.type == "cuda":
            stack.enter_context(_without_tf32())
        # what was never imported has compiled nothing, and its import takes seconds
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def device_name(device: torch.device) -> str:
    """Return what belongs beside a value that was computed on a device: a GPU's name, or the kind of the device."""
    name = getattr(torch.get_device_module(device), "get_device_name", None)
    return str(name(device)) if name else device.type


@contextmanager
def _without_tf32() -> Iterator[None]:
    # allow_tf32 rather than the newer fp32_precision: reading the one after setting the other is an error, and
    # `cudnn.flags` and other libraries read this one
    matmul = torch.backends.cuda.matmul.allow_tf32
    with torch.backends.cudnn.flags(
        enabled=True,
        benchmark=False,
        deterministic=torch.backends.cudnn.deterministic,
        allow_tf32=False,
    ):
        torch.backends.cuda.matmul.allow_tf32 = False
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = matmul
