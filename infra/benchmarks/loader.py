"""Measure whether training waits for data.

Each stage is trained on one batch in memory, then for as many steps with the data loader.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch

from daefr.data.dataset import Batch, FaceDataset, training_batches
from daefr.device import add_device_option, resolve_device
from daefr.errors import UserError
from daefr.portraits import draw_portrait
from daefr.profiling import Case, CaseName, network_of
from daefr.speed import arrange_batch, prepare_network
from daefr.training.optimization import Optimization
from daefr.training.state import TrainingState
from infra.benchmarks.data import degrade_face, write_dataset

MEASURED_STAGES: tuple[CaseName, ...] = ("hq_codebook", "association", "restoration")
VARIANTS = 2


@dataclass(frozen=True)
class LoaderCost:
    """One stage's samples per second with and without the loader, their ratio, and the fraction of time waited."""

    samples_per_second: float
    without_loader: float
    ratio: float
    waiting: float


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options; the defaults are for a GPU."""
    add_device_option(parser)
    parser.add_argument("--batch", type=int, default=4, help="samples per step (default %(default)s)")
    parser.add_argument("--channels", type=int, default=64, help="width of the finest level (default %(default)s)")
    parser.add_argument("--resolution", type=int, default=512, help="side of the images (default %(default)s)")
    parser.add_argument("--steps", type=int, default=30, help="timed steps (default %(default)s)")
    parser.add_argument("--loaders", type=int, default=4, help="decoding processes (default %(default)s)")
    parser.add_argument("--faces", type=int, default=32, help="drawn portraits to read (default %(default)s)")


def run(options: argparse.Namespace) -> int:
    """Measure and print one JSON object; return 0. Raises `UserError` if the sizes are inconsistent."""
    options.device = str(resolve_device(options.device))
    for name in ("batch", "channels", "resolution", "steps", "faces"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name}={getattr(options, name)} must be at least 1")
    network = network_of(options.resolution, options.channels, (1, 2, 2, 4, 4, 8))
    with tempfile.TemporaryDirectory() as folder:
        faces = (draw_portrait(seed, options.resolution).image for seed in range(options.faces))
        write_dataset([degrade_face(face, VARIANTS, number) for number, face in enumerate(faces)], Path(folder))
        costs = {
            name: asdict(measure_loading(Case(name, network, options.batch, options.device), Path(folder), options))
            for name in MEASURED_STAGES
        }
    sys.stdout.write(json.dumps(costs, indent=2) + "\n")
    return 0


def measure_loading(case: Case, dataset: Path, options: argparse.Namespace) -> LoaderCost:
    """Measure one stage on a dataset."""
    device, (stage, training) = torch.device(case.device), case.build()
    prepare_network(stage, training.speed, device).train()
    optimization = Optimization(TrainingState(stage, training), device)
    faces = FaceDataset(dataset, "train", stage.parts, flip=True, draw=True)

    def load() -> Iterator[Batch]:
        return iter(training_batches(faces, seed=0, batch=case.batch, rank=0, ranks=1, step=0, workers=options.loaders))

    def time_steps(batches: Iterator[Batch]) -> tuple[float, float]:
        """Return the seconds of all steps, and those of waiting for batches."""
        waited, start = 0.0, time.perf_counter()
        for _ in range(options.steps):
            requested = time.perf_counter()
            images = next(batches)
            waited += time.perf_counter() - requested
            optimization.step(arrange_batch(images, training.speed, device))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start, waited

    batch = next(load())
    for _ in range(2):  # compile and allocate
        optimization.step(arrange_batch(batch, training.speed, device))
    without, _ = time_steps(iter([batch] * options.steps))
    loader = load()
    optimization.step(arrange_batch(next(loader), training.speed, device))  # starts the processes
    with_loader, waited = time_steps(islice(loader, options.steps))
    samples = options.steps * case.batch
    return LoaderCost(samples / with_loader, samples / without, without / with_loader, waited / with_loader)
