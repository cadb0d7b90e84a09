"""Benchmarks of alternative implementations and memory layouts, forward and backward."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from daefr.gpu_check.checks import Check, CheckResult, Metrics
from daefr.gpu_check.context import Context
from daefr.gpu_check.workload import Mode, Workload, seconds_per_call
from daefr.network.blocks import Upsample
from daefr.network.normalization import GroupNorm, group_norm
from daefr.settings.speed import Speed

NORMALIZATIONS = {
    "torch_channels_last": (torch.channels_last, False),
    "torch_contiguous": (torch.contiguous_format, False),
    "own_channels_last": (torch.channels_last, True),
}
"""Memory layout, and whether `keep_channels_last` is set."""
STEPS = {
    "defaults": Speed(),
    "contiguous": Speed(channels_last=False),
    "group_norm=channels_last": Speed(group_norm="channels_last"),
    "upsample=nearest": Speed(upsample="nearest"),
    "cudnn_benchmark=false": Speed(cudnn_benchmark=False),
}
"""Options that are compared by the time of a complete training step."""


def checks(context: Context) -> Iterator[Check]:
    """See the module."""
    yield Check("upsampling: transposed 4x4 versus nearest and 3x3", lambda: _upsampling(context))
    yield Check("group normalization by layout", lambda: _normalization(context))
    if not context.on_gpu:
        return
    for name, speed in STEPS.items():
        yield Check(f"eager step, {name}", partial(_step, context, speed))


def _upsampling(context: Context) -> CheckResult:
    metrics: Metrics = {}
    for channels, side in _levels(context)[1:]:
        module = Upsample(channels).to(context.device).to(memory_format=torch.channels_last)

        def nearest(x: Tensor, module: Upsample = module) -> Tensor:
            return F.conv2d(F.interpolate(x, scale_factor=2.0), module.conv.weight, module.conv.bias, padding=1)

        for name, call in (("transposed", module), ("nearest", nearest)):
            metrics[f"{name}_{channels}x{side}"] = _time_pass(context, call, channels, side, torch.channels_last)
    return CheckResult(_with_sums(metrics, ("transposed", "nearest")))


def _normalization(context: Context) -> CheckResult:
    metrics: Metrics = {}
    for channels, side in _levels(context):
        norm = group_norm(context.network.autoencoder.groups, channels).to(context.device)

        def normalize(x: Tensor, norm: GroupNorm = norm) -> Tensor:
            return F.silu(norm(x))

        for name, (layout, kept) in NORMALIZATIONS.items():
            norm.keep_channels_last = kept
            metrics[f"{name}_{channels}x{side}"] = _time_pass(context, normalize, channels, side, layout)
    return CheckResult(_with_sums(metrics, tuple(NORMALIZATIONS)))


def _step(context: Context, speed: Speed) -> CheckResult:
    chosen = speed.model_copy(update={"autocast": "bfloat16" if context.on_gpu else "off", "compile": False})
    workload = Workload(context, "hq_codebook", Mode(bfloat16=context.on_gpu, compiled=False), speed=chosen)
    return CheckResult({"seconds_per_step": seconds_per_call(context, workload.step, 2 if context.quick else 8)})


def _time_pass(
    context: Context, call: Callable[[Tensor], Tensor], channels: int, side: int, layout: torch.memory_format
) -> float:
    """Return the seconds of a forward and a backward pass on a batch of (B, channels, side, side)."""
    x = torch.randn(context.batch, channels, side, side, device=context.device)
    x = x.to(torch.bfloat16 if context.on_gpu else torch.float32).contiguous(memory_format=layout).requires_grad_()

    def run() -> None:
        with torch.autocast(context.device.type, torch.bfloat16, enabled=context.on_gpu):
            output = call(x)
        output.backward(torch.ones_like(output))  # type: ignore[no-untyped-call]

    return seconds_per_call(context, run, 2 if context.quick else 10, warmup=3)


def _levels(context: Context) -> list[tuple[int, int]]:
    """Return channels and side of every level, finest first."""
    sizes = context.network.autoencoder
    return list(zip(sizes.widths, sizes.level_resolutions, strict=True))


def _with_sums(metrics: Metrics, prefixes: tuple[str, ...]) -> Metrics:
    sums = {f"{prefix}_sum": sum(v for name, v in metrics.items() if name.startswith(prefix)) for prefix in prefixes}
    return sums | metrics
