"""All items, the most important first, since the last ones are skipped if time runs out."""

from collections.abc import Callable, Iterator

from daefr.gpu_check import (
    compile_ahead,
    distributed,
    kernels,
    largest_batch,
    loading,
    machine,
    parity,
    photographs,
    restoring,
    resume,
    steps,
)
from daefr.gpu_check.checks import Check
from daefr.gpu_check.context import Context

ITEMS: dict[str, Callable[[Context], Iterator[Check]]] = {
    "machine": machine.checks,
    # runs in other processes during checks that are not timed
    "compile_ahead": compile_ahead.checks,
    "dataset": loading.dataset_checks,
    "parity": parity.checks,
    "resume": resume.checks,
    "ranks": distributed.checks,
    "compile_ahead_end": compile_ahead.end_checks,
    "steps": steps.checks,
    "loading": loading.checks,
    "restoring": restoring.checks,
    "photographs": photographs.checks,
    "kernels": kernels.checks,
    "largest_batch": largest_batch.checks,
    "compiled_restoring": restoring.compiled_checks,
    "compiled_float32": steps.float32_checks,
}
