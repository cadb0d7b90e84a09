"""The largest batch that fits into the GPU's memory, by stage."""

import gc
import time
from collections.abc import Iterator
from functools import partial

import torch

from daefr.gpu_check.checks import Check, CheckResult, Metrics, NotAvailableError
from daefr.gpu_check.context import Context
from daefr.gpu_check.steps import BEST
from daefr.gpu_check.workload import Mode, Workload, bfloat16_rate, flops_per_sample
from daefr.settings.base import StageName
from daefr.stages import STAGES

MODE = Mode(bfloat16=True, compiled=False)
LARGEST = 256
SECONDS = 25.0
"""No further batch is tried after this time."""


def checks(context: Context) -> Iterator[Check]:
    """See the module."""
    for name in STAGES[:1] if context.quick else STAGES:
        yield Check(f"{name}, {MODE}", partial(_run, context, name), seconds=45)


def _run(context: Context, name: StageName) -> CheckResult:
    if not context.on_gpu:
        raise NotAvailableError("a CPU has no separate memory")
    context.workloads.clear()
    start = time.perf_counter()
    fits, too_large, seconds = 0, LARGEST + 1, 0.0
    batch = 4
    while too_large - fits > max(1, fits // 8) and time.perf_counter() - start < SECONDS:
        step_seconds = _try(context, name, batch)
        if step_seconds is None:
            too_large = batch
        else:
            fits, seconds = batch, step_seconds
        batch = min(2 * fits, LARGEST) if too_large > LARGEST else (fits + too_large) // 2
    metrics: Metrics = {"largest_batch": fits, "too_large": too_large, "seconds_per_step": seconds}
    if seconds:
        rate = flops_per_sample(context, name) * fits / seconds
        metrics |= {"samples_per_second": fits / seconds, "fraction_of_bfloat16_rate": rate / bfloat16_rate(context)}
    if (measured := context.step_metrics.get((name, str(BEST)))) is not None:
        # a constant for the weights and the optimizers, plus a constant per sample
        total = torch.cuda.get_device_properties(context.device).total_memory / 1e9
        per_sample = (measured["peak_gb"] - measured["between_steps_gb"]) / measured["batch"]
        metrics["estimate_compiled"] = int((0.95 * total - measured["between_steps_gb"]) / per_sample)
    return CheckResult(metrics, [] if fits else [f"not even a batch of {batch} fits"])


def _try(context: Context, name: StageName, batch: int) -> float | None:
    """Return the seconds of a step, None if it runs out of memory."""
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
        # libraries raise other errors
        if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower():
            return None
        raise
    return time.perf_counter() - start
