"""Exact resume on the device, in deterministic mode, and what a checkpoint costs."""

import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from daefr.checkpoint import load_checkpoint
from daefr.gpu_check.checks import Check, Figures, Outcome
from daefr.gpu_check.context import Context
from daefr.gpu_check.workload import Mode, Workload
from daefr.profiling import random_images
from daefr.settings.base import StageName
from daefr.stages import STAGES

STEPS, SAVED = 4, 2
MEASURED: tuple[StageName, ...] = ("association", "restoration")
MODE = Mode(bfloat16=True, compiled=False)


def checks(context: Context) -> Iterator[Check]:
    """See the module; a checkpoint's cost is that of the association, the largest stage."""
    # a CPU's tests resume every stage
    for name in STAGES[2:] if context.quick else STAGES:
        yield Check(f"{name}, {SAVED} + resume + {STEPS - SAVED} = {STEPS} steps", partial(_run, context, name))
    for name in MEASURED[-1:] if context.quick else MEASURED:
        yield Check(f"{name}, cost of a checkpoint", partial(_checkpoint, context, name))


def _run(context: Context, name: StageName) -> Outcome:
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
    figures: Figures = {"parameters": len(expected), "different": len(different), "nondeterministic": messages}
    problems = []
    if different:
        problems.append(f"{len(different)} of {len(expected)} parameters are not bit-equal, such as {different[0]}")
    if found_losses != expected_losses:
        problems.append(f"losses differ: {found_losses} instead of {expected_losses}")
    return Outcome(figures, problems)


def _shifted(context: Context, number: int, batch: int) -> dict[str, Tensor]:
    """Return another batch for every number."""
    images = random_images(context.network.autoencoder.resolution, batch)
    return {name: image.roll(7 * number, dims=3) for name, image in images.items()}


@contextmanager
def _deterministic() -> Iterator[list[str]]:
    """Compute deterministically; collect the operations that PyTorch says it has no deterministic form of."""
    names: list[str] = []
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield names
        names += sorted({str(each.message).split(" ")[0] for each in caught if "determinis" in str(each.message)})
    finally:
        torch.use_deterministic_algorithms(False)


def _checkpoint(context: Context, name: StageName) -> Outcome:
    workload = Workload(context, name, Mode(bfloat16=context.on_gpu, compiled=False), batch=min(2, context.batch))
    workload.step()
    folder = context.folder / f"checkpoint-{name}"
    stalls = []
    for _ in range(2):
        context.synchronize()
        start = time.perf_counter()
        write = workload.state.snapshot()
        stalls.append(time.perf_counter() - start)
    start = time.perf_counter()
    write(folder)
    written = time.perf_counter() - start
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    start = time.perf_counter()
    workload.state.resume(load_checkpoint(folder))
    context.synchronize()
    read = time.perf_counter() - start
    shutil.rmtree(folder)
    return Outcome(
        {
            "training_waits_seconds": stalls[1],
            "first_wait_seconds": stalls[0],
            "write_seconds": written,
            "read_seconds": read,
            "megabytes": size / 1e6,
        }
    )
