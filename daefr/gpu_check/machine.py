"""Versions, memory, compiler and matrix rates of the machine."""

import os
import platform
from collections.abc import Iterator

import torch

from daefr.compiler import missing_compiler
from daefr.gpu_check.checks import Check, CheckResult, Metrics
from daefr.gpu_check.context import Context
from daefr.gpu_check.workload import bfloat16_rate, seconds_per_call
from daefr.profiling import matrix_rate


def checks(context: Context) -> Iterator[Check]:
    """See the module."""
    yield Check("versions", lambda: _versions(context))
    yield Check("rates", lambda: _rates(context))


def _versions(context: Context) -> CheckResult:
    metrics: Metrics = {
        "device": torch.cuda.get_device_name(context.device) if context.on_gpu else platform.processor() or "CPU",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "compiler": missing_compiler(context.device.type) or "found",
    }
    if context.on_gpu:
        properties = torch.cuda.get_device_properties(context.device)
        free, total = torch.cuda.mem_get_info(context.device)
        metrics |= {
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "nccl": ".".join(map(str, torch.cuda.nccl.version())),  # type: ignore[no-untyped-call]
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_gb": total / 1e9,
            "free_gb": free / 1e9,
        }
    return CheckResult(metrics)


def _rates(context: Context) -> CheckResult:
    metrics: Metrics = {"bfloat16_tflops": bfloat16_rate(context) / 1e12}
    if context.on_gpu:
        for name, allowed in (("tf32", True), ("float32", False)):
            torch.backends.cuda.matmul.allow_tf32 = allowed
            metrics[f"{name}_tflops"] = matrix_rate(context.device, torch.float32, context.matrix_side) / 1e12
        source = torch.empty(2**30, dtype=torch.uint8, device=context.device).random_()
        target = torch.empty_like(source)
        seconds = seconds_per_call(context, lambda: target.copy_(source), 10)
        metrics["copy_gb_per_second"] = 2 * len(source) / seconds / 1e9
    else:
        metrics["float32_tflops"] = matrix_rate(context.device, torch.float32, context.matrix_side) / 1e12
    return CheckResult(metrics)
