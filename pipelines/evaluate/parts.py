"""One actor evaluates a part of a benchmark, and leaves a file of it: what is finished is never done again.

A part is a Parquet file with a row an image: `image`, `problem`, the figures by column, `codes`, `features:SUBJECT`
for FID, and `thumbnail:NAME`, WebP files of LQ, HQ and restored face for the report. Its metadata tells the measures
that could not be had, with the reasons, and the size of the codebook.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from daefr.data.order import Position
from daefr.device import worker_device
from daefr.evaluation import SUBJECTS, Evaluated, EvaluationSample, Evaluator, Method
from daefr.files import atomic_path
from daefr.metrics.meter import MetricSet
from daefr.metrics.options import BATCH_ON_CPU, BATCH_ON_GPU
from daefr.metrics.registry import MetricSetup
from daefr.precision import device_name
from daefr.settings.base import Settings
from daefr.settings.metrics import MetricName
from pipelines.engine.computed import Computed
from pipelines.evaluate.benchmarks import Benchmark, FileItem, Shards, UnreadableError, read_position
from pipelines.evaluate.targets import EvaluationTarget

IMAGES = 16
"""In a part: some half a minute of a CPU's work at 512 pixels."""
PARTS = "parts"
ABOUT = b"daefr"
FEATURES, THUMBNAIL = "features:", "thumbnail:"
THUMBNAILS = ("lq", "hq", "restored")


def part_path(folder: Path, benchmark: str, number: int) -> tuple[Path, int]:
    """Return the file in an evaluation's folder that has the image of that number, and its row there."""
    return folder / PARTS / benchmark / f"{number // IMAGES:06d}.parquet", number % IMAGES


class PartAbout(Settings):
    """What holds for all images of a part."""

    unavailable: dict[str, str]
    codes: int | None = None
    """The size of the codebook, None where there is none."""
    resolution: int | None = None
    """At which faces were restored, None where they were elsewhere."""
    computed: Computed | None = None
    """How faces were restored and measured; None in older evaluations."""


@dataclass(frozen=True)
class Part:
    """Some images of a benchmark, and the file that tells what became of them."""

    path: Path
    items: Sequence[FileItem | Position]
    shards: Shards | None
    reconstruct: bool


def divide(benchmark: Benchmark, folder: Path, *, reconstruct: bool) -> list[Part]:
    """Divide a benchmark into parts below an evaluation's folder, the same ones whatever evaluates them."""
    return [
        Part(
            part_path(folder, benchmark.name, start)[0],
            benchmark.items[start : start + IMAGES],
            benchmark.shards,
            reconstruct,
        )
        for start in range(0, len(benchmark.items), IMAGES)
    ]


@dataclass(frozen=True)
class EvaluatorFactory:
    """Makes an actor: called, it loads the target and the measures, and returns what evaluates parts."""

    target: EvaluationTarget
    measures: tuple[MetricName, ...]
    protocol: Any
    weights: Path | None
    statistics: Path | None
    cpus: float
    gpu: bool

    def __call__(self) -> Callable[[Part], int]:
        """Load. Raises `UserError` when the target cannot be."""
        torch.set_num_threads(max(1, int(self.cpus)))
        # in full float32 on any device, as gates compare what is measured; this process does nothing else
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        device = worker_device(self.gpu)
        setup = MetricSetup(self.protocol, device, self.weights, self.statistics)
        return _Worker(self.target.load(device), MetricSet(self.measures, setup), setup).evaluate


class _Worker:
    def __init__(self, method: Method | None, measures: MetricSet, setup: MetricSetup) -> None:
        self._method, self._measures = method, measures
        self._batch = BATCH_ON_GPU if setup.device.type != "cpu" else BATCH_ON_CPU
        self._datasets: dict[Shards, Any] = {}
        self._computed = Computed(device=device_name(setup.device))

    def evaluate(self, part: Part) -> int:
        """Evaluate a part, write its file, and return the number of its images."""
        evaluator = Evaluator(self._measures, self._method, batch=self._batch, reconstruct=part.reconstruct)
        problems: dict[int, Evaluated] = {}
        samples = list(self._read(part, problems))
        evaluated = iter(list(evaluator(samples)))
        rows = [problems.get(number) or next(evaluated) for number in range(len(part.items))]
        part.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(part.path) as temporary:
            about = PartAbout(unavailable=self._measures.unavailable, computed=self._computed)
            if self._method is not None:
                about = about.model_copy(update={"codes": self._method.codes, "resolution": self._method.resolution})
            pq.write_table(_table(rows, about), temporary)
        return len(rows)

    def _read(self, part: Part, problems: dict[int, Evaluated]) -> Iterator[EvaluationSample]:
        for number, item in enumerate(part.items):
            if isinstance(item, Position):
                assert part.shards is not None  # noqa: S101  # positions are in shards
                if part.shards not in self._datasets:
                    self._datasets[part.shards] = part.shards.open()
                yield read_position(self._datasets[part.shards], item)
                continue
            try:
                yield item.read()
            except UnreadableError as error:
                problems[number] = Evaluated(item.name, str(error))


def _table(rows: Sequence[Evaluated], about: PartAbout) -> pa.Table:
    columns = sorted({name for row in rows for name in row.figures})
    subjects = [subject for subject in SUBJECTS if any(subject in row.features for row in rows)]
    arrays: dict[str, pa.Array] = {
        "image": pa.array([row.name for row in rows], pa.string()),
        "problem": pa.array([row.problem or None for row in rows], pa.string()),
        "codes": pa.array([None if row.codes is None else row.codes for row in rows], pa.list_(pa.int32())),
    }
    for name in columns:
        # NaN, which is "not defined", becomes null
        arrays[name] = pa.array([row.figures.get(name) for row in rows], pa.float64(), from_pandas=True)
    for subject in subjects:
        features = [row.features[subject].numpy() if subject in row.features else None for row in rows]
        arrays[f"{FEATURES}{subject}"] = pa.array(features, pa.list_(pa.float32()))
    for name in THUMBNAILS:
        arrays[f"{THUMBNAIL}{name}"] = pa.array([row.thumbnails.get(name) for row in rows], pa.binary())
    return pa.table(arrays, metadata={ABOUT: about.model_dump_json().encode()})


def read_about(path: Path) -> PartAbout:
    """Return what a finished part tells of itself."""
    return PartAbout.model_validate_json(pq.read_schema(path).metadata[ABOUT])


def is_whole(path: Path) -> bool:
    """Tell whether a part is finished."""
    with suppress(OSError, pa.ArrowException):
        return bool(pq.read_metadata(path).num_rows)
    return False
