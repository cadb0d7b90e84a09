"""From the parts of an evaluation to its Parquet file and its summary, in constant memory and in a fixed order."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from daefr.evaluation import SUBJECTS, Subject, column
from daefr.files import atomic_path
from daefr.metrics.fid import Statistics
from daefr.metrics.meter import NO_TARGET, MetricValue, Totals, undefined
from daefr.metrics.registry import METRIC_KINDS
from daefr.settings.metrics import MetricName
from pipelines.engine.computed import Computed
from pipelines.evaluate.benchmarks import Benchmark
from pipelines.evaluate.figures import FIGURES, BenchmarkSummary, CodebookUsage, MeasuredFigure, schema
from pipelines.evaluate.parts import FEATURES, Part, read_about

MISSING = "missing"


def write_figures(folder: Path, parts: Mapping[str, Sequence[Part]]) -> None:
    """Write the Parquet file of all benchmarks, in the order of their images."""
    columns = {name for each in parts.values() for part in each for name in _figures_of(pq.read_schema(part.path))}
    wanted = schema(sorted(columns))
    with atomic_path(folder / FIGURES) as temporary, closing(pq.ParquetWriter(temporary, wanted)) as writer:
        for name, each in parts.items():
            for part in each:
                found = pq.read_table(part.path)
                rows = found.append_column("benchmark", pa.array([name] * len(found), pa.string()))
                writer.write_table(_with_columns(rows, wanted))


def summarize(
    benchmark: Benchmark,
    parts: Sequence[Part],
    measures: Sequence[MetricName],
    real: Statistics | None,
    lacking: Mapping[str, str],
) -> BenchmarkSummary:
    """Return what came out for one benchmark.

    `real` is what FID compares with, None where it is not measured; `lacking` are the measures that were not tried,
    with the reasons.
    """
    totals: dict[Subject, Totals] = {}
    problems = dict(lacking)
    images = missing = failed = 0
    for part in parts:
        found = pq.read_table(part.path)
        problems = read_about(part.path).unavailable | problems
        told = [problem for problem in found["problem"].to_pylist() if problem]
        images += len(found)
        missing += sum(problem.startswith(MISSING) for problem in told)
        failed += sum(not problem.startswith(MISSING) for problem in told)
        for subject in SUBJECTS:
            rows, features = _rows(found, subject), _features(found, subject)
            if rows or features is not None:
                totals.setdefault(subject, Totals(real)).add(rows, features)

    def why_not(name: MetricName) -> str:
        needs_more = METRIC_KINDS[name].needs_target and not benchmark.has_targets
        return NO_TARGET if needs_more else problems.get(name, undefined(name).problem)

    figures = {}
    for subject, total in totals.items():
        lacks = {name: MetricValue(None, problem=why_not(name)) for name in measures}
        figures[subject] = {
            name: MeasuredFigure(
                value=figure.value,
                images=figure.count,
                problem=figure.problem,
                identical=figure.identical,
                caution=figure.caution,
            )
            for name, figure in (lacks | total.figures()).items()
        }
    return BenchmarkSummary(
        images=images, measured=images - missing - failed, missing=missing, failed=failed, figures=figures
    )


def count_codes(parts: Sequence[Part]) -> NDArray[np.int64] | None:
    """Return how often each code was chosen over all restored images; None where there is no codebook."""
    counts: NDArray[np.int64] | None = None
    for part in parts:
        size = read_about(part.path).codes
        if size is None:
            return None
        codes = pq.read_table(part.path, columns=["codes"])["codes"].combine_chunks().flatten().to_numpy()
        mine = np.bincount(codes, minlength=size).astype(np.int64)
        counts = mine if counts is None else counts + mine
    return counts


def resolution_of(parts: Sequence[Part]) -> int | None:
    """Return the side of the restored faces, None where they were restored elsewhere."""
    return next((read_about(part.path).resolution for part in parts), None)


def computed_by(parts: Sequence[Part]) -> Computed | None:
    """Return how faces were restored and measured, None where a part does not tell."""
    found = [read_about(part.path).computed for part in parts]
    known = [computed for computed in found if computed is not None]
    if not known or len(known) < len(found):
        return None
    devices, precisions = (sorted({getattr(each, name) for each in known}) for name in ("device", "precision"))
    return Computed(device=", ".join(devices), precision=", ".join(precisions))


def usage(counts: NDArray[np.int64]) -> CodebookUsage:
    """Return how a codebook was used."""
    shares = counts[counts > 0] / max(1, counts.sum())
    perplexity = float(np.exp(-(shares * np.log(shares)).sum()))
    return CodebookUsage(codes=len(counts), dead=int((counts == 0).sum()), perplexity=perplexity)


def _figures_of(names: pa.Schema) -> list[str]:
    return [name for name in names.names if "/" in name]


def _with_columns(rows: pa.Table, wanted: pa.Schema) -> pa.Table:
    held = {name: rows[name] for name in wanted.names if name in rows.column_names}
    empty = {field.name: pa.nulls(len(rows), field.type) for field in wanted if field.name not in held}
    return pa.table({name: (held | empty)[name] for name in wanted.names}, schema=wanted)


def _rows(part: pa.Table, subject: Subject) -> list[dict[str, float]]:
    """Return the figures of one subject, NaN where there is none."""
    ending = column("", subject)
    names = [name for name in _figures_of(part.schema) if name.endswith(ending)]
    values = [part[name].to_numpy() for name in names]
    return [
        dict(zip([name.removesuffix(ending) for name in names], map(float, row), strict=True))
        for row in zip(*values, strict=True)
    ]


def _features(part: pa.Table, subject: Subject) -> Tensor | None:
    """Return the features (B, F) of the images that have them."""
    name = f"{FEATURES}{subject}"
    if name not in part.column_names:
        return None
    found = part[name].combine_chunks().drop_null()
    return torch.from_numpy(found.flatten().to_numpy().reshape(len(found), -1).copy()) if len(found) else None
