"""The Parquet file and the summary of an evaluation, computed from its parts in constant memory and a fixed order."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from daefr.evaluation import IMAGE_KINDS, ImageKind, column
from daefr.files import atomic_path
from daefr.metrics.fid import Statistics
from daefr.metrics.meter import NO_TARGET, MetricValue, Totals, undefined
from daefr.metrics.registry import METRIC_KINDS
from daefr.settings.metrics import MetricName
from pipelines.engine.compute_info import ComputeInfo
from pipelines.evaluate.benchmarks import Benchmark
from pipelines.evaluate.parts import FEATURES, Part, read_metadata
from pipelines.evaluate.results import METRICS_FILE, BenchmarkSummary, CodebookUsage, MetricResult, metrics_schema

MISSING = "missing"


def write_metrics_file(folder: Path, parts: Mapping[str, Sequence[Part]]) -> None:
    """Write the Parquet file of all benchmarks, in the order of their images."""
    columns = {name for each in parts.values() for part in each for name in _metric_columns(pq.read_schema(part.path))}
    schema = metrics_schema(sorted(columns))
    with atomic_path(folder / METRICS_FILE) as temporary, closing(pq.ParquetWriter(temporary, schema)) as writer:
        for name, each in parts.items():
            for part in each:
                table = pq.read_table(part.path)
                table = table.append_column("benchmark", pa.array([name] * len(table), pa.string()))
                table = table.select([column for column in schema.names if column in table.column_names])
                # concatenating with an empty table adds the missing columns, as nulls
                writer.write_table(pa.concat_tables([schema.empty_table(), table], promote_options="default"))


def summarize(
    benchmark: Benchmark,
    parts: Sequence[Part],
    metrics: Sequence[MetricName],
    real: Statistics | None,
    unavailable: Mapping[str, str],
) -> BenchmarkSummary:
    """Return the summary of one benchmark.

    `real` are the statistics of real faces for FID, None if it is not computed; `unavailable` are the metrics that were
    not attempted, with the reasons.
    """
    totals: dict[ImageKind, Totals] = {}
    reasons = dict(unavailable)
    images = missing = failed = 0
    for part in parts:
        table = pq.read_table(part.path)
        reasons = read_metadata(part.path).unavailable | reasons
        problems = [problem for problem in table["problem"].to_pylist() if problem]
        images += len(table)
        missing += sum(problem.startswith(MISSING) for problem in problems)
        failed += sum(not problem.startswith(MISSING) for problem in problems)
        for kind in IMAGE_KINDS:
            rows, features = _rows(table, kind), _features(table, kind)
            if rows or features is not None:
                totals.setdefault(kind, Totals(real)).add(rows, features)

    def reason(name: MetricName) -> str:
        lacks_target = METRIC_KINDS[name].needs_target and not benchmark.has_targets
        return NO_TARGET if lacks_target else reasons.get(name, undefined(name).problem)

    missing_values = {name: MetricValue(None, problem=reason(name)) for name in metrics}
    return BenchmarkSummary(
        images=images,
        measured=images - missing - failed,
        missing=missing,
        failed=failed,
        metrics={
            kind: {
                name: MetricResult(
                    value=metric.value,
                    images=metric.count,
                    problem=metric.problem,
                    identical=metric.identical,
                    caution=metric.caution,
                )
                for name, metric in (missing_values | total.figures()).items()
            }
            for kind, total in totals.items()
        },
    )


def count_codes(parts: Sequence[Part]) -> NDArray[np.int64] | None:
    """Return how often each code was chosen over all restored images; None if there is no codebook."""
    counts: NDArray[np.int64] | None = None
    for part in parts:
        size = read_metadata(part.path).codes
        if size is None:
            return None
        codes = pq.read_table(part.path, columns=["codes"])["codes"].combine_chunks().flatten().to_numpy()
        part_counts = np.bincount(codes, minlength=size).astype(np.int64)
        counts = part_counts if counts is None else counts + part_counts
    return counts


def find_resolution(parts: Sequence[Part]) -> int | None:
    """Return the resolution of the restored faces, None for precomputed results."""
    return next((read_metadata(part.path).resolution for part in parts), None)


def merge_compute_info(parts: Sequence[Part]) -> ComputeInfo | None:
    """Return how faces were restored and measured, None unless all parts recorded it."""
    infos = [read_metadata(part.path).computed for part in parts]
    known = [info for info in infos if info is not None]
    if not known or len(known) < len(infos):
        return None
    devices, precisions = (sorted({getattr(each, name) for each in known}) for name in ("device", "precision"))
    return ComputeInfo(device=", ".join(devices), precision=", ".join(precisions))


def codebook_usage(counts: NDArray[np.int64]) -> CodebookUsage:
    """Return how a codebook was used, from how often each code was chosen."""
    shares = counts[counts > 0] / max(1, counts.sum())
    perplexity = float(np.exp(-(shares * np.log(shares)).sum()))
    return CodebookUsage(codes=len(counts), dead=int((counts == 0).sum()), perplexity=perplexity)


def _metric_columns(schema: pa.Schema) -> list[str]:
    return [name for name in schema.names if "/" in name]


def _rows(part: pa.Table, kind: ImageKind) -> list[dict[str, float]]:
    """Return the metrics of one kind of image, NaN for missing values."""
    suffix = column("", kind)
    names = [name for name in _metric_columns(part.schema) if name.endswith(suffix)]
    values = [part[name].to_numpy() for name in names]
    return [
        dict(zip([name.removesuffix(suffix) for name in names], map(float, row), strict=True))
        for row in zip(*values, strict=True)
    ]


def _features(part: pa.Table, kind: ImageKind) -> Tensor | None:
    """Return the features (B, F) of the images that have them."""
    name = f"{FEATURES}{kind}"
    if name not in part.column_names:
        return None
    found = part[name].combine_chunks().drop_null()
    return torch.from_numpy(found.flatten().to_numpy().reshape(len(found), -1).copy()) if len(found) else None
