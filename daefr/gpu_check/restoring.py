"""Restoration of aligned crops: time, utilization and memory."""

from collections.abc import Iterator
from functools import partial

import torch

from daefr.gpu_check.checks import Check, CheckResult, Metrics
from daefr.gpu_check.context import Context
from daefr.gpu_check.workload import bfloat16_rate, flops_per_sample, restore, seconds_per_call
from daefr.restore import FOR_RESTORING
from daefr.settings.speed import Speed

BATCHES = (1, 8, 32)
GOAL = 0.5
"""Fraction of the bfloat16 matrix rate that restoration should reach."""
PRECISE = FOR_RESTORING.model_copy(update={"autocast": "off", "allow_tf32": False})


def checks(context: Context) -> Iterator[Check]:
    """Check several batch sizes with the options of `daefr restore`, and float32."""
    for batch in (1, 2) if context.quick else BATCHES:
        yield Check(f"batch {batch}", partial(_run, context, batch, FOR_RESTORING), seconds=40)
    yield Check("batch 8, float32", partial(_run, context, 1 if context.quick else 8, PRECISE), seconds=40)


def compiled_checks(context: Context) -> Iterator[Check]:
    """Check compiled restoration, which is only worthwhile for very many faces."""
    if context.on_gpu:
        speed = FOR_RESTORING.model_copy(update={"compile": True})
        yield Check("batch 8, compiled", partial(_run, context, 8, speed), seconds=90)


def _run(context: Context, batch: int, speed: Speed) -> CheckResult:
    flops = flops_per_sample(context, "restore")
    if context.on_gpu:
        torch.cuda.reset_peak_memory_stats(context.device)
    call = restore(context, speed, batch)
    seconds = seconds_per_call(context, call, 2 if context.quick else max(5, 40 // batch))
    rate = flops * batch / seconds
    metrics: Metrics = {
        "seconds": seconds,
        "faces_per_second": batch / seconds,
        "tflops": rate / 1e12,
        "fraction_of_bfloat16_rate": rate / bfloat16_rate(context),
        "goal_fraction": GOAL,
    }
    if context.on_gpu:
        metrics["peak_gb"] = torch.cuda.max_memory_allocated(context.device) / 1e9
    finite = bool(call().isfinite().all())
    return CheckResult(metrics, [] if finite else ["the restored images are not finite"])
