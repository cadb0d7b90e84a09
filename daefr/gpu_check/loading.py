"""Does training wait for its data? Steps with the data loader against the same steps on one batch in memory."""

import time
from collections.abc import Iterator
from functools import partial
from itertools import islice

from daefr.data.dataset import Batch, FaceDataset, training_batches
from daefr.gpu_check.checks import Check, Figures, Outcome
from daefr.gpu_check.context import Context
from daefr.gpu_check.faces import write_dataset
from daefr.gpu_check.steps import BEST, KEPT
from daefr.gpu_check.workload import Mode, Workload
from daefr.settings.base import StageName

PREFETCH = 4
"""Batches that each process of a loader keeps ready."""
GOAL = 0.95
"""Samples per second with the loader over those without."""


def checks(context: Context) -> Iterator[Check]:
    """See the module."""
    for name in KEPT[:1] if context.quick else KEPT:
        yield Check(f"{name}, loader against memory", partial(_run, context, name), seconds=75)


def dataset_checks(context: Context) -> Iterator[Check]:
    """The dataset that `checks` reads."""
    yield Check("drawn portraits", lambda: _prepare(context), seconds=60)


def _prepare(context: Context) -> Outcome:
    faces = 6 if context.quick else 64
    start = time.perf_counter()
    resolution = context.network.autoencoder.resolution
    write_dataset(context.folder / "dataset", faces, resolution, context.dataloader_workers)
    return Outcome({"faces": faces, "seconds": time.perf_counter() - start})


def _run(context: Context, name: StageName) -> Outcome:
    mode = BEST if context.on_gpu else Mode(bfloat16=False, compiled=False)
    workload = context.workloads.pop(name, None) or Workload(context, name, mode)
    dataset = FaceDataset(context.folder / "dataset", "train", workload.stage.parts, flip=True, draw=True)
    steps = 4 if context.quick else 40

    def load() -> Iterator[Batch]:
        return training_batches(
            dataset, seed=0, batch=workload.batch_size, rank=0, ranks=1, step=0, workers=context.dataloader_workers
        )

    def seconds(batches: Iterator[Batch]) -> tuple[float, float]:
        context.synchronize()
        waited, start = 0.0, time.perf_counter()
        for _ in range(steps):
            asked = time.perf_counter()
            images = next(batches)
            waited += time.perf_counter() - asked
            workload.step(workload.arrange(images))
        context.synchronize()
        return time.perf_counter() - start, waited

    loader = load()
    kept = next(loader)
    for _ in range(3):
        workload.step(workload.arrange(kept))
    without, _ = seconds(iter([kept] * steps))
    # what was loaded meanwhile would hide a loader that is too slow
    for images in islice(loader, PREFETCH * context.dataloader_workers):
        workload.step(workload.arrange(images))
    with_loader, waited = seconds(islice(loader, steps))
    figures: Figures = {
        "ratio": without / with_loader,
        "goal_ratio": GOAL,
        "samples_per_second": steps * workload.batch_size / with_loader,
        "without_loader": steps * workload.batch_size / without,
        "share_waiting": waited / with_loader,
        "dataloader_workers": context.dataloader_workers,
        "loader_samples_per_second": _rate(load(), workload.batch_size, steps),
    }
    return Outcome(figures)


def _rate(batches: Iterator[Batch], batch: int, steps: int) -> float:
    """Return how many samples per second the loader brings when nothing is computed meanwhile."""
    next(batches)
    start = time.perf_counter()
    for _ in range(2 * steps):
        next(batches)
    return 2 * steps * batch / (time.perf_counter() - start)
