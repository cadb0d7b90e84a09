"""The first ten steps of every stage in every mode: losses, recompilation, host synchronization, time and memory."""

import logging
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import Tensor
from torch._dynamo.utils import counters

from daefr.compiler import missing_compiler
from daefr.gpu_check.checks import Check, CheckResult, Metrics, NotAvailableError
from daefr.gpu_check.context import Context
from daefr.gpu_check.workload import Mode, Workload, bfloat16_rate, flops_per_sample
from daefr.settings.base import StageName
from daefr.stages import STAGES

BEST = Mode(bfloat16=True, compiled=True)
EXACT = Mode(bfloat16=False, compiled=False)
MODES = (Mode(bfloat16=True, compiled=False), EXACT, BEST)
WARMUP, TIMED, CHECKED = 3, 7, 2
"""Steps: for compilation and allocation, for timing, and for checking that the host does not synchronize."""
QUICK: tuple[tuple[Mode, tuple[StageName, ...]], ...] = (
    (EXACT, STAGES),
    (MODES[0], ("restoration",)),
    (BEST, ("restoration",)),
)
"""The modes and stages for a CPU."""
GOAL = 0.45
"""Fraction of the bfloat16 matrix rate that the training of every stage should reach."""
BOUNDS = {Mode(bfloat16=False, compiled=True): (1e-3, 2e-2), Mode(True, False): (5e-2, 1e-1), BEST: (5e-2, 1e-1)}
"""Largest relative difference from the losses of eager float32: of the first step, and of the mean over ten."""
REUSED: tuple[StageName, ...] = ("restoration", "hq_codebook")
"""Stages that `loading` reuses: those that decode the most and the fewest images per sample."""
PACKAGE = str(Path(__file__).resolve().parents[1])
KERNELS = 12
"""How many of the most expensive kernels are listed."""


def checks(context: Context) -> Iterator[Check]:
    """Check all modes except for compiled float32; see `float32_checks`."""
    chosen = [(mode, name) for mode, names in QUICK for name in names] if context.quick else product(MODES, STAGES)
    for mode, name in chosen:
        yield Check(f"{name}, {mode}", partial(_run, context, name, mode), seconds=150 if mode.compiled else 60)
    for name in STAGES:
        yield Check(f"{name}, losses agree", partial(_compare, context, name))


def float32_checks(context: Context) -> Iterator[Check]:
    """Check compiled float32, which is slow to compile and not a default."""
    mode = Mode(bfloat16=False, compiled=True)
    for name in () if context.quick else STAGES:
        yield Check(f"{name}, {mode}", partial(_run, context, name, mode), seconds=120)
        yield Check(f"{name}, losses agree", partial(_compare, context, name))


def _run(context: Context, name: StageName, mode: Mode) -> CheckResult:
    if mode.compiled and context.on_gpu and (missing := missing_compiler("cuda")):
        raise NotAvailableError(f"{missing}, which torch.compile needs")
    if context.on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(context.device)
        before = torch.cuda.memory_allocated(context.device)
    problems: list[str] = []
    with _recompile_limit_warnings() as warnings:
        start = time.perf_counter()
        workload = Workload(context, name, mode)
        context.synchronize()
        metrics: Metrics = {"build_seconds": time.perf_counter() - start}
        losses: list[Tensor] = []

        def take(steps: int) -> float:
            context.synchronize()
            begin = time.perf_counter()
            losses.extend(workload.step()["loss"] for _ in range(steps))
            context.synchronize()
            return time.perf_counter() - begin

        metrics["first_step_seconds"] = take(1)
        take(WARMUP - 1)
        graphs = counters["stats"]["unique_graphs"]
        timed = 2 if context.quick else TIMED
        seconds = take(timed) / timed
        problems += _find_host_sync(workload, context)
        recompiled = counters["stats"]["unique_graphs"] - graphs
    if recompiled:
        problems.append(f"{recompiled} graphs were compiled again after step {WARMUP}")
    problems += warnings[:1]
    context.losses[name, str(mode)] = values = [float(loss) for loss in losses]
    if not all(map(_is_finite, values)):
        problems.append("a loss is not finite")
    rate = flops_per_sample(context, name) * workload.batch_size / seconds
    metrics |= {
        "seconds_per_step": seconds,
        "samples_per_second": workload.batch_size / seconds,
        "batch": workload.batch_size,
        "tflops": rate / 1e12,
        "fraction_of_bfloat16_rate": rate / bfloat16_rate(context),
        "loss_first": values[0],
        "loss_mean": sum(values) / len(values),
    }
    if mode is BEST:
        metrics["goal_fraction"] = GOAL
    if context.on_gpu:
        metrics["peak_gb"] = (torch.cuda.max_memory_allocated(context.device) - before) / 1e9
        metrics["between_steps_gb"] = (torch.cuda.memory_allocated(context.device) - before) / 1e9
        if mode.bfloat16:
            metrics |= _profile(workload, context)
    context.step_metrics[name, str(mode)] = metrics
    if mode is BEST and name in REUSED and context.on_gpu:
        context.workloads[name] = workload
    return CheckResult(metrics, problems)


def _find_host_sync(workload: Workload, context: Context) -> list[str]:
    """Return where the host waits for the GPU in a step, if it does."""
    if not context.on_gpu:
        return []
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(CHECKED):
            workload.step()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(PACKAGE)]
        return [f"the host waits for the GPU at {Path(frames[-1].filename).name}:{frames[-1].lineno}"]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return []


def _profile(workload: Workload, context: Context) -> Metrics:
    """Return the GPU time of one step by kernel."""
    context.synchronize()
    try:
        return _profile_step(workload, context)
    except RuntimeError as error:  # profiling may be forbidden
        return {"kernels": [f"not traced: {error}"]}


def _profile_step(workload: Workload, context: Context) -> Metrics:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        workload.step()
        context.synchronize()
    kernels = sorted(profile.key_averages(), key=lambda event: -event.self_device_time_total)
    total = sum(event.self_device_time_total for event in kernels)
    listed = [
        f"{event.self_device_time_total / 1e3:.2f} ms, {event.count} x {event.key[:90]}" for event in kernels[:KERNELS]
    ]
    return {"kernel_seconds": total / 1e6, "kernels": listed}


@contextmanager
def _recompile_limit_warnings() -> Iterator[list[str]]:
    """Collect the warnings of torch.compile that it has reached the limit of recompilations."""
    found: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if "limit" in text and "recompile" in text:
                found.append("torch.compile: " + " ".join(text.split())[:160])

    handler, logger = Handler(), logging.getLogger("torch._dynamo.convert_frame")
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)


def _compare(context: Context, name: StageName) -> CheckResult:
    expected = context.losses.get((name, str(EXACT)))
    if expected is None:
        raise NotAvailableError("eager float32 was not run")
    metrics: Metrics = {"float32_first": expected[0], "float32_last": expected[-1]}
    problems = []
    for mode, (first_bound, mean_bound) in BOUNDS.items():
        losses = context.losses.get((name, str(mode)))
        if losses is None:
            continue
        first = abs(losses[0] / expected[0] - 1)
        mean = abs(sum(losses) / sum(expected) - 1)
        metrics |= {f"{mode}: first differs by": first, f"{mode}: mean differs by": mean}
        # also true for NaN
        if not first <= first_bound:
            problems.append(f"{mode}: the first loss differs by {first:.1%}, more than {first_bound:.1%}")
        if not mean <= mean_bound:
            problems.append(f"{mode}: the mean of ten losses differs by {mean:.1%}, more than {mean_bound:.1%}")
    return CheckResult(metrics, problems)


def _is_finite(value: float) -> bool:
    return abs(value) < float("inf")
