"""What an evaluation leaves: the figures of each image in one Parquet file, and its summary in the step's manifest.

`figures.parquet` has a row an image:

benchmark          string: the name of the benchmark, `validation` for the dataset's validation faces
image              string: its name there, without the suffix; unique in its benchmark
problem            string, null where it was measured: why it was not
MEASURE/SUBJECT    float64, null where not defined or not to be had; such as `psnr/restored`, `niqe/lq`

The subjects are `restored`, `lq` (the input, enlarged to the restored image's size) and, for validation faces of a
model of ours, `hq_codebook` (HQ through the codebook alone: what restoration could reach). FID is a figure of a whole
benchmark: the summary alone has it.

The manifest's outputs are a `Summary`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from daefr.evaluation.subjects import Subject
from daefr.settings.base import Settings
from daefr.settings.metrics import Protocol
from pipelines.engine.computed import Computed

FIGURES = "figures.parquet"


class MeasuredFigure(Settings):
    """The mean of a measure over `images` images (FID: its one value), or why there is none; see `MetricValue`."""

    value: float | None
    images: int = 0
    problem: str = ""
    identical: int = 0
    caution: str = ""


class BenchmarkSummary(Settings):
    """What came out for one benchmark.

    Its `images` are `measured`, `missing` (there is something to compare with, but nothing restored) or `failed`.
    `figures` are those of each subject by the name of the measure, `lpips_01` included; `names` of missing and failed
    images are in the Parquet file.
    """

    images: int
    measured: int
    missing: int
    failed: int
    figures: dict[Subject, dict[str, MeasuredFigure]]


class CodebookUsage(Settings):
    """Which codes were chosen over all restored images: how many of all were never, and the perplexity of the rest."""

    codes: int
    dead: int
    perplexity: float


class Summary(Settings):
    """The outputs of an evaluation."""

    subject: str
    """What was evaluated, for people: a model's address or checkpoint, a method, a folder."""
    protocol: Protocol
    benchmarks: dict[str, BenchmarkSummary]
    codebook: CodebookUsage | None
    """None where no model of ours was evaluated."""
    resolution: int | None = None
    """The side of the restored faces, at which they were measured; None where they were restored elsewhere."""
    computed: Computed | None = None
    """How faces were restored and measured; devices of several kinds are listed. None in older evaluations."""


def summary_of(outputs: Mapping[str, Any]) -> Summary:
    """Return the summary that an evaluation's manifest has as its outputs."""
    return Summary.model_validate(outputs)


def schema(columns: Sequence[str]) -> pa.Schema:
    """Return the schema of a file with the given `MEASURE/SUBJECT` columns."""
    texts = [pa.field(name, pa.string()) for name in ("benchmark", "image", "problem")]
    return pa.schema([*texts, *(pa.field(name, pa.float64()) for name in columns)])


def read_figures(evaluated: Path, benchmark: str, columns: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return image -> column -> figure of one benchmark, NaN where there is none, from an evaluation's folder.

    A column that the file does not have is NaN throughout.
    """
    path = evaluated / FIGURES
    held = [name for name in columns if name in pq.read_schema(path).names]
    found = pq.read_table(path, columns=["image", *held], filters=[("benchmark", "=", benchmark)]).to_pydict()
    rows = {image: dict.fromkeys(columns, np.nan) for image in found["image"]}
    for name in held:
        for image, value in zip(found["image"], found[name], strict=True):
            rows[image][name] = np.nan if value is None else value
    return rows
