"""The metrics of an evaluation as a table for the terminal."""

from collections.abc import Iterable, Iterator, Mapping

from daefr.evaluation import IMAGE_KINDS
from pipelines.engine.step import StepResult
from pipelines.evaluate.results import BenchmarkSummary, MetricResult, load_summary

TITLES = {"psnr": "PSNR (dB)"}


def table(evaluated: StepResult) -> str:
    """Return the metrics of all benchmarks as a table."""
    summary = load_summary(evaluated.outputs)
    return "\n".join(line for name, found in summary.benchmarks.items() for line in _lines(name, found))


def _lines(name: str, found: BenchmarkSummary) -> Iterator[str]:
    rows = found.metrics.values()
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if _has_value(name, rows)]
    counts = f"{found.measured} images" + "".join(
        f", {count} {what}" for what, count in (("missing", found.missing), ("failed", found.failed)) if count
    )
    yield f"{name} ({counts})"
    yield f"{'':>12}" + "".join(f" {TITLES.get(metric, metric.upper()):>10}" for metric in names)
    for kind in IMAGE_KINDS:
        if kind in found.metrics:
            cells = (_cell(metric, found.metrics[kind][metric].value) for metric in names)
            yield f"{kind.replace('_', ' '):>12}" + "".join(f" {cell:>10}" for cell in cells)
    for problem, unavailable in group_by_problem(found.metrics.get("restored", {})).items():
        yield f"{', '.join(unavailable)} unavailable: {problem}"
    yield from notes(found)


def notes(found: BenchmarkSummary) -> Iterator[str]:
    """Return notes on the metrics: identical images, too few images for FID."""
    for kind in IMAGE_KINDS:
        for name, result in found.metrics.get(kind, {}).items():
            if result.identical:
                yield f"{name} of {kind}: {result.identical} images are identical to the ground truth, and excluded"
    for name, result in found.metrics.get("restored", {}).items():
        if result.caution:
            yield f"{name}: {result.caution}"


def group_by_problem(metrics: Mapping[str, MetricResult]) -> dict[str, list[str]]:
    """Return the metrics that are unavailable, by the reason."""
    groups: dict[str, list[str]] = {}
    for name, result in metrics.items():
        if result.value is None:
            groups.setdefault(result.problem, []).append(name)
    return groups


def _has_value(metric: str, rows: Iterable[Mapping[str, MetricResult]]) -> bool:
    return any(row[metric].value is not None for row in rows)


def _cell(metric: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if metric == "psnr" else f"{value:.3f}"
