"""Fills the cache of torch.compile in separate processes, because compiling is slow.

The processes run during checks that are not timed; timed checks wait for them.
"""

import multiprocessing
import time
from collections.abc import Iterator

import torch
import torch._inductor.config

from daefr.gpu_check.checks import Check, CheckResult, NotAvailableError
from daefr.gpu_check.context import Context
from daefr.gpu_check.steps import BEST
from daefr.gpu_check.workload import Workload
from daefr.settings.base import StageName

STAGES: tuple[StageName, ...] = ("hq_codebook", "restoration")
"""The other two stages consist of the same networks."""


def checks(context: Context) -> Iterator[Check]:
    """Start the processes."""
    yield Check("start", lambda: _start(context))


def end_checks(context: Context) -> Iterator[Check]:
    """Wait for the processes."""
    yield Check("wait", lambda: _wait(context), seconds=180)


def _start(context: Context) -> CheckResult:
    if not context.on_gpu:
        raise NotAvailableError("nothing is compiled for a CPU")
    spawn = multiprocessing.get_context("spawn")
    for name in STAGES:
        process = spawn.Process(target=_compile, args=(context.for_process(), name), daemon=False)
        process.start()
        context.processes.append(process)
    return CheckResult({"processes": len(context.processes)})


def _wait(context: Context) -> CheckResult:
    if not context.processes:
        raise NotAvailableError("nothing is compiled for a CPU")
    start = time.perf_counter()
    try:
        for process in context.processes:
            process.join()
    except BaseException:  # the time limit: later checks are timed, so the processes must not run any longer
        for process in context.processes:
            process.kill()
        raise
    codes = [process.exitcode for process in context.processes]
    return CheckResult({"waited_seconds": time.perf_counter() - start, "exit_codes": str(codes)})


def _compile(context: Context, name: StageName) -> None:
    # kernels are autotuned later, when nothing else uses the GPU
    torch._inductor.config.autotune_local_cache = False
    Workload(context, name, BEST).step()
    context.synchronize()
