"""The results of an evaluation: the metrics of each image in a Parquet file, and a summary in the step's manifest.

`metrics.parquet` has one row per image:

benchmark      string: the name of the benchmark, `validation` for the dataset's validation faces
image          string: its name there, without the suffix; unique in its benchmark
problem        string: why the image was not measured, null if it was
METRIC/KIND    float64, such as `psnr/restored` or `niqe/lq`; null if undefined or unavailable

KIND is one of `daefr.evaluation.IMAGE_KINDS`. FID is one value for a whole benchmark, so only the summary has it.

The manifest's outputs are a `Summary`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AliasChoices, Field

from daefr.evaluation import ImageKind
from daefr.settings.base import Settings
from daefr.settings.metrics import Protocol
from pipelines.engine.compute_info import ComputeInfo

METRICS_FILE = "metrics.parquet"
_FORMER_METRICS_FILE = "figures.parquet"
"""The file's name in older runs."""


class MetricResult(Settings):
    """The mean of a metric over `images` images (FID: its one value), or why there is none; see `MetricValue`."""

    value: float | None
    images: int = 0
    problem: str = ""
    identical: int = 0
    caution: str = ""


class BenchmarkSummary(Settings):
    """The results of one benchmark.

    Its `images` are `measured`, `missing` (there is something to compare with, but no restored image) or `failed`; the
    Parquet file names them. `metrics` are those of each kind of image by name, `lpips_01` included.
    """

    images: int
    measured: int
    missing: int
    failed: int
    metrics: dict[ImageKind, dict[str, MetricResult]] = Field(validation_alias=AliasChoices("metrics", "figures"))


class CodebookUsage(Settings):
    """How all restored images use the codebook: its size, the number of codes never chosen, the perplexity."""

    codes: int
    dead: int
    perplexity: float


class Summary(Settings):
    """The outputs of an evaluation."""

    target: str = Field(validation_alias=AliasChoices("target", "subject"))
    """What was evaluated: the address or checkpoint of a model, a method, or a folder."""
    protocol: Protocol
    benchmarks: dict[str, BenchmarkSummary]
    codebook: CodebookUsage | None
    """None unless the target is a DAEFR model."""
    resolution: int | None = None
    """The side of the restored faces in pixels; None for precomputed results."""
    computed: ComputeInfo | None = None
    """How faces were restored and measured, listing all kinds of devices. None in older evaluations."""


def load_summary(outputs: Mapping[str, Any]) -> Summary:
    """Return the summary in the outputs of an evaluation's manifest."""
    return Summary.model_validate(outputs)


def metrics_schema(columns: Sequence[str]) -> pa.Schema:
    """Return the schema of a file with the given `METRIC/KIND` columns."""
    texts = [pa.field(name, pa.string()) for name in ("benchmark", "image", "problem")]
    return pa.schema([*texts, *(pa.field(name, pa.float64()) for name in columns)])


def metrics_file(evaluated: Path) -> Path:
    """Return the Parquet file in an evaluation's folder."""
    path = evaluated / METRICS_FILE
    return path if path.exists() else evaluated / _FORMER_METRICS_FILE


def read_image_metrics(evaluated: Path, benchmark: str, columns: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return image -> column -> value of one benchmark from an evaluation's folder; NaN for missing values."""
    path = metrics_file(evaluated)
    present = [name for name in columns if name in pq.read_schema(path).names]
    table = pq.read_table(path, columns=["image", *present], filters=[("benchmark", "=", benchmark)]).to_pydict()
    rows = {image: dict.fromkeys(columns, np.nan) for image in table["image"]}
    for name in present:
        for image, value in zip(table["image"], table[name], strict=True):
            rows[image][name] = np.nan if value is None else value
    return rows
