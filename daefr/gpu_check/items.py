"""All items, the most important first: what comes late is left out where time is short."""

from collections.abc import Callable, Iterator

from daefr.gpu_check import (
    compile_ahead,
    kernels,
    largest_batch,
    loading,
    machine,
    parity,
    photographs,
    restoring,
    resume,
    several_ranks,
    steps,
)
from daefr.gpu_check.checks import Check
from daefr.gpu_check.context import Context

ITEMS: dict[str, Callable[[Context], Iterator[Check]]] = {
    "machine": machine.checks,
    # compiles in other processes, beside what is not timed
    "compile_ahead": compile_ahead.checks,
    "dataset": loading.dataset_checks,
    "parity": parity.checks,
    "resume": resume.checks,
    "ranks": several_ranks.checks,
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
