"""On which device and in which precision a metric was computed, and how much rounding differs between two of them."""

from daefr.settings.base import Settings

SAME_COMPUTE = 1e-5
"""Largest relative difference of a metric between machines of one kind, numbers of threads and batch sizes."""
OTHER_DEVICE = 1e-4
"""Likewise between a CPU and a GPU, or GPUs of two kinds, in the same precision. An assumption, not measured."""
OTHER_PRECISION = 1e-2
"""Likewise between float32 and TF32 or bfloat16, whose own rounding is 4e-3. An assumption, not measured."""


class ComputeInfo(Settings):
    """The device, such as `cpu` or a GPU's name, and the precision of the network and of the metric."""

    device: str
    precision: str = "float32"

    def __str__(self) -> str:
        return f"in {self.precision} on {self.device}"


def rounding_tolerance(ours: ComputeInfo | None, theirs: ComputeInfo | None) -> float:
    """Return the relative difference that rounding can cause; None is assumed to be equal to the other."""
    if ours is None or theirs is None or ours == theirs:
        return SAME_COMPUTE
    return OTHER_DEVICE if ours.precision == theirs.precision else OTHER_PRECISION
