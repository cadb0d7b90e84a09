"""The largest batch that fits into the GPU's memory, by stage."""

import gc
import time
from collections.abc import Iterator
from functools import partial

import torch

from daefr.gpu_check.checks import Check, Figures, NotAvailableError, Outcome
from daefr.gpu_check.context import Context
from daefr.gpu_check.steps import BEST
from daefr.gpu_check.workload import Mode, Workload, bfloat16_rate, flops_per_sample
from daefr.settings.base import StageName
from daefr.stages import STAGES

MODE = Mode(bfloat16=True, compiled=False)
LARGEST = 256
SECONDS = 25.0
"""After so many no further batch is tried."""


def checks(context: Context) -> Iterator[Check]:
    """See the module."""
    for name in STAGES[:1] if context.quick else STAGES:
        yield Check(f"{name}, {MODE}", partial(_run, context, name), seconds=45)


def _run(context: Context, name: StageName) -> Outcome:
    if not context.on_gpu:
        raise NotAvailableError("a CPU has no memory of its own")
    context.workloads.clear()
    start = time.perf_counter()
    fits, too_large, seconds = 0, LARGEST + 1, 0.0
    batch = 4
    while too_large - fits > max(1, fits // 8) and time.perf_counter() - start < SECONDS:
        taken = _try(context, name, batch)
        if taken is None:
            too_large = batch
        else:
            fits, seconds = batch, taken
        batch = min(2 * fits, LARGEST) if too_large > LARGEST else (fits + too_large) // 2
    figures: Figures = {"largest_batch": fits, "too_large": too_large, "seconds_per_step": seconds}
    if seconds:
        rate = flops_per_sample(context, name) * fits / seconds
        figures |= {"samples_per_second": fits / seconds, "share_of_bfloat16_rate": rate / bfloat16_rate(context)}
    if (measured := context.step_figures.get((name, str(BEST)))) is not None:
        # a step's memory is that of the weights and the optimizers, and a share for each sample
        total = torch.cuda.get_device_properties(context.device).total_memory / 1e9
        each = (measured["peak_gb"] - measured["between_steps_gb"]) / measured["batch"]
        figures["estimate_compiled"] = int((0.95 * total - measured["between_steps_gb"]) / each)
    return Outcome(figures, [] if fits else [f"not even a batch of {batch} fits"])


def _try(context: Context, name: StageName, batch: int) -> float | None:
    """Return the seconds of a step, None where the memory is too small."""
    gc.collect()
    torch.cuda.empty_cache()
    try:
        workload = Workload(context, name, MODE, batch)
        workload.step()
        context.synchronize()
        start = time.perf_counter()
        workload.step()
        context.synchronize()
    except RuntimeError as error:
        # libraries have errors of their own for it
        if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower():
            return None
        raise
    return time.perf_counter() - start
