"""Parts of a benchmark, each evaluated by one actor and stored as a file, so that finished parts are not repeated.

A part is a Parquet file with one row per image: `image`, `problem`, the metrics by column, `codes`, `features:KIND` for
FID, and `thumbnail:NAME`, WebP files of LQ, HQ and restored face for the report. Its metadata is a `PartMetadata`.
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
from daefr.evaluation import IMAGE_KINDS, EvaluationSample, Evaluator, ImageResult, Method
from daefr.files import atomic_path
from daefr.metrics.meter import MetricSet
from daefr.metrics.options import BATCH_ON_CPU, BATCH_ON_GPU
from daefr.metrics.registry import MetricSetup
from daefr.precision import device_name
from daefr.settings.base import Settings
from daefr.settings.metrics import MetricName
from pipelines.engine.compute_info import ComputeInfo
from pipelines.evaluate.benchmarks import Benchmark, FileItem, Shards, UnreadableError, read_position
from pipelines.evaluate.targets import EvaluationTarget

IMAGES_PER_PART = 16
"""About half a minute of work for a CPU at 512 pixels."""
PARTS = "parts"
METADATA_KEY = b"daefr"
FEATURES, THUMBNAIL = "features:", "thumbnail:"
THUMBNAILS = ("lq", "hq", "restored")


def part_path(folder: Path, benchmark: str, number: int) -> tuple[Path, int]:
    """Return the file in an evaluation's folder that contains an image, given its index, and its row there."""
    return folder / PARTS / benchmark / f"{number // IMAGES_PER_PART:06d}.parquet", number % IMAGES_PER_PART


class PartMetadata(Settings):
    """Properties of all images of a part."""

    unavailable: dict[str, str]
    """Metrics that could not be computed, with the reasons."""
    codes: int | None = None
    """The size of the codebook, None if there is none."""
    resolution: int | None = None
    """The resolution of the restored faces, None for precomputed results."""
    computed: ComputeInfo | None = None
    """How faces were restored and measured; None in older evaluations."""


@dataclass(frozen=True)
class Part:
    """Some images of a benchmark, and the file for their results."""

    path: Path
    items: Sequence[FileItem | Position]
    shards: Shards | None
    reconstruct: bool


def split_into_parts(benchmark: Benchmark, folder: Path, *, reconstruct: bool) -> list[Part]:
    """Split a benchmark into parts with files in an evaluation's folder, independently of the number of actors."""
    return [
        Part(
            part_path(folder, benchmark.name, start)[0],
            benchmark.items[start : start + IMAGES_PER_PART],
            benchmark.shards,
            reconstruct,
        )
        for start in range(0, len(benchmark.items), IMAGES_PER_PART)
    ]


@dataclass(frozen=True)
class EvaluatorFactory:
    """Called in an actor, loads the target and the metrics, and returns a function that evaluates parts."""

    target: EvaluationTarget
    metrics: tuple[MetricName, ...]
    protocol: Any
    weights: Path | None
    statistics: Path | None
    cpus: float
    gpu: bool

    def __call__(self) -> Callable[[Part], int]:
        """Load. Raises `UserError` if the target cannot be loaded."""
        torch.set_num_threads(max(1, int(self.cpus)))
        # promotion gates compare the metrics of different devices, so all of them compute in full float32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        device = worker_device(self.gpu)
        setup = MetricSetup(self.protocol, device, self.weights, self.statistics)
        return _Worker(self.target.load(device), MetricSet(self.metrics, setup), setup).evaluate


class _Worker:
    def __init__(self, method: Method | None, metrics: MetricSet, setup: MetricSetup) -> None:
        self._method, self._metrics = method, metrics
        self._batch = BATCH_ON_GPU if setup.device.type != "cpu" else BATCH_ON_CPU
        self._datasets: dict[Shards, Any] = {}
        self._computed = ComputeInfo(device=device_name(setup.device))

    def evaluate(self, part: Part) -> int:
        """Evaluate a part, write its file, and return the number of its images."""
        evaluator = Evaluator(self._metrics, self._method, batch=self._batch, reconstruct=part.reconstruct)
        problems: dict[int, ImageResult] = {}
        results = iter(list(evaluator(list(self._read(part, problems)))))
        rows = [problems.get(number) or next(results) for number in range(len(part.items))]
        metadata = PartMetadata(
            unavailable=self._metrics.unavailable,
            codes=self._method and self._method.codes,
            resolution=self._method and self._method.resolution,
            computed=self._computed,
        )
        part.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(part.path) as temporary:
            pq.write_table(_table(rows, metadata), temporary)
        return len(rows)

    def _read(self, part: Part, problems: dict[int, ImageResult]) -> Iterator[EvaluationSample]:
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
                problems[number] = ImageResult(item.name, str(error))


def _table(rows: Sequence[ImageResult], metadata: PartMetadata) -> pa.Table:
    columns = sorted({name for row in rows for name in row.metrics})
    kinds = [kind for kind in IMAGE_KINDS if any(kind in row.features for row in rows)]
    arrays: dict[str, pa.Array] = {
        "image": pa.array([row.name for row in rows], pa.string()),
        "problem": pa.array([row.problem or None for row in rows], pa.string()),
        "codes": pa.array([None if row.codes is None else row.codes for row in rows], pa.list_(pa.int32())),
    }
    for name in columns:
        # from_pandas turns NaN into null
        arrays[name] = pa.array([row.metrics.get(name) for row in rows], pa.float64(), from_pandas=True)
    for kind in kinds:
        features = [row.features[kind].numpy() if kind in row.features else None for row in rows]
        arrays[f"{FEATURES}{kind}"] = pa.array(features, pa.list_(pa.float32()))
    for name in THUMBNAILS:
        arrays[f"{THUMBNAIL}{name}"] = pa.array([row.thumbnails.get(name) for row in rows], pa.binary())
    return pa.table(arrays, metadata={METADATA_KEY: metadata.model_dump_json().encode()})


def read_metadata(path: Path) -> PartMetadata:
    """Return the metadata of a finished part."""
    return PartMetadata.model_validate_json(pq.read_schema(path).metadata[METADATA_KEY])


def is_complete(path: Path) -> bool:
    """Return whether a part is finished."""
    with suppress(OSError, pa.ArrowException):
        return bool(pq.read_metadata(path).num_rows)
    return False
