"""Exact resume on the device, in deterministic mode, and the cost of a checkpoint."""

import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from daefr.checkpoint import load_checkpoint
from daefr.gpu_check.checks import Check, CheckResult, Metrics
from daefr.gpu_check.context import Context
from daefr.gpu_check.workload import Mode, Workload
from daefr.profiling import random_images
from daefr.settings.base import StageName
from daefr.stages import STAGES

STEPS, SAVED = 4, 2
MEASURED: tuple[StageName, ...] = ("association", "restoration")
MODE = Mode(bfloat16=True, compiled=False)


def checks(context: Context) -> Iterator[Check]:
    """See the module."""
    # the unit tests resume every stage on a CPU
    for name in STAGES[2:] if context.quick else STAGES:
        yield Check(f"{name}, {SAVED} + resume + {STEPS - SAVED} = {STEPS} steps", partial(_run, context, name))
    for name in MEASURED[-1:] if context.quick else MEASURED:
        yield Check(f"{name}, cost of a checkpoint", partial(_checkpoint, context, name))


def _run(context: Context, name: StageName) -> CheckResult:
    batch = min(2, context.batch)
    mode = MODE if context.on_gpu else Mode(bfloat16=False, compiled=False)
    speed = mode.speed.model_copy(update={"cudnn_benchmark": False})
    batches = [_shifted(context, number, batch) for number in range(STEPS)]
    folder = context.folder / f"resume-{name}"
    with _deterministic() as messages:
        straight = Workload(context, name, mode, batch, speed)
        for images in batches[:SAVED]:
            straight.step(straight.arrange(images))
        straight.state.snapshot()(folder)
        losses = [straight.step(straight.arrange(images))["loss"] for images in batches[SAVED:]]
        expected = straight.parameters()
        expected_losses = torch.stack(losses).tolist()
        del straight, losses
        resumed = Workload(context, name, mode, batch, speed)
        resumed.state.resume(load_checkpoint(folder))
        losses = [resumed.step(resumed.arrange(images))["loss"] for images in batches[SAVED:]]
        found_losses, found = torch.stack(losses).tolist(), resumed.parameters()
    shutil.rmtree(folder)
    different = [path for path, tensor in expected.items() if not torch.equal(tensor, found[path])]
    metrics: Metrics = {"parameters": len(expected), "different": len(different), "nondeterministic": messages}
    problems = []
    if different:
        problems.append(f"{len(different)} of {len(expected)} parameters are not bit-equal, such as {different[0]}")
    if found_losses != expected_losses:
        problems.append(f"losses differ: {found_losses} instead of {expected_losses}")
    return CheckResult(metrics, problems)


def _shifted(context: Context, number: int, batch: int) -> dict[str, Tensor]:
    """Return a different batch for every number."""
    images = random_images(context.network.autoencoder.resolution, batch)
    return {name: image.roll(7 * number, dims=3) for name, image in images.items()}


@contextmanager
def _deterministic() -> Iterator[list[str]]:
    """Use deterministic algorithms, and collect the operations for which PyTorch has none."""
    names: list[str] = []
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield names
        names += sorted({str(each.message).split(" ")[0] for each in caught if "determinis" in str(each.message)})
    finally:
        torch.use_deterministic_algorithms(False)


def _checkpoint(context: Context, name: StageName) -> CheckResult:
    workload = Workload(context, name, Mode(bfloat16=context.on_gpu, compiled=False), batch=min(2, context.batch))
    workload.step()
    folder = context.folder / f"checkpoint-{name}"
    waits = []
    for _ in range(2):
        context.synchronize()
        start = time.perf_counter()
        write = workload.state.snapshot()
        waits.append(time.perf_counter() - start)
    start = time.perf_counter()
    write(folder)
    written = time.perf_counter() - start
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    start = time.perf_counter()
    workload.state.resume(load_checkpoint(folder))
    context.synchronize()
    read = time.perf_counter() - start
    shutil.rmtree(folder)
    return CheckResult(
        {
            "training_waits_seconds": waits[1],
            "first_wait_seconds": waits[0],
            "write_seconds": written,
            "read_seconds": read,
            "megabytes": size / 1e6,
        }
    )
