"""Whether training waits for data: steps with the data loader, and the same steps with one batch in memory."""

import time
from collections.abc import Iterator
from functools import partial
from itertools import islice

from daefr.data.dataset import Batch, FaceDataset, training_batches
from daefr.gpu_check.checks import Check, CheckResult, Metrics
from daefr.gpu_check.context import Context
from daefr.gpu_check.faces import write_dataset
from daefr.gpu_check.steps import BEST, REUSED
from daefr.gpu_check.workload import Mode, Workload
from daefr.settings.base import StageName

PREFETCH = 4
"""Batches that each process of a loader prefetches."""
GOAL = 0.95
"""Ratio of the samples per second with and without the loader."""


def checks(context: Context) -> Iterator[Check]:
    """See the module."""
    for name in REUSED[:1] if context.quick else REUSED:
        yield Check(f"{name}, loader versus memory", partial(_run, context, name), seconds=75)


def dataset_checks(context: Context) -> Iterator[Check]:
    """Write the dataset for `checks`."""
    yield Check("drawn portraits", lambda: _prepare(context), seconds=60)


def _prepare(context: Context) -> CheckResult:
    faces = 6 if context.quick else 64
    start = time.perf_counter()
    resolution = context.network.autoencoder.resolution
    write_dataset(context.folder / "dataset", faces, resolution, context.dataloader_workers)
    return CheckResult({"faces": faces, "seconds": time.perf_counter() - start})


def _run(context: Context, name: StageName) -> CheckResult:
    mode = BEST if context.on_gpu else Mode(bfloat16=False, compiled=False)
    workload = context.workloads.pop(name, None) or Workload(context, name, mode)
    dataset = FaceDataset(context.folder / "dataset", "train", workload.stage.parts, flip=True, draw=True)
    steps = 4 if context.quick else 40

    def load() -> Iterator[Batch]:
        return training_batches(
            dataset, seed=0, batch=workload.batch_size, rank=0, ranks=1, step=0, workers=context.dataloader_workers
        )

    def time_steps(batches: Iterator[Batch]) -> tuple[float, float]:
        """Return the seconds of all steps, and those of waiting for batches."""
        context.synchronize()
        waited, start = 0.0, time.perf_counter()
        for _ in range(steps):
            requested = time.perf_counter()
            images = next(batches)
            waited += time.perf_counter() - requested
            workload.step(workload.arrange(images))
        context.synchronize()
        return time.perf_counter() - start, waited

    loader = load()
    batch = next(loader)
    for _ in range(3):
        workload.step(workload.arrange(batch))
    without, _ = time_steps(iter([batch] * steps))
    # consume the prefetched batches, which would hide that a loader is too slow
    for images in islice(loader, PREFETCH * context.dataloader_workers):
        workload.step(workload.arrange(images))
    with_loader, waited = time_steps(islice(loader, steps))
    metrics: Metrics = {
        "ratio": without / with_loader,
        "goal_ratio": GOAL,
        "samples_per_second": steps * workload.batch_size / with_loader,
        "without_loader": steps * workload.batch_size / without,
        "waiting_fraction": waited / with_loader,
        "dataloader_workers": context.dataloader_workers,
        "loader_samples_per_second": _rate(load(), workload.batch_size, steps),
    }
    return CheckResult(metrics)


def _rate(batches: Iterator[Batch], batch: int, steps: int) -> float:
    """Return the samples per second of the loader alone."""
    next(batches)
    start = time.perf_counter()
    for _ in range(2 * steps):
        next(batches)
    return 2 * steps * batch / (time.perf_counter() - start)
