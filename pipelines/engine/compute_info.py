"""How a metric was computed: where two models' metrics were not computed alike, they differ by rounding as well."""

from daefr.settings.base import Settings

ROUNDING = 1e-5
"""By less than this share of itself, a metric differs between machines of one kind, numbers of threads and batches."""
ROUNDING_OF_DEVICES = 1e-4
"""Likewise between a CPU and a GPU, or GPUs of two kinds, in the same precision. An assumption, not measured."""
ROUNDING_OF_PRECISIONS = 1e-2
"""Likewise between float32 and TF32 or bfloat16, whose own rounding is 4e-3. An assumption, not measured."""


class ComputeInfo(Settings):
    """The device, such as `cpu` or a GPU's name, and the precision of the network and of the metric."""

    device: str
    precision: str = "float32"

    def __str__(self) -> str:
        return f"in {self.precision} on {self.device}"


def rounding_tolerance(mine: ComputeInfo | None, theirs: ComputeInfo | None) -> float:
    """Return the share of themselves by which equal metrics may differ. What was not recorded is taken for equal."""
    if mine is None or theirs is None or mine == theirs:
        return ROUNDING
    return ROUNDING_OF_DEVICES if mine.precision == theirs.precision else ROUNDING_OF_PRECISIONS
