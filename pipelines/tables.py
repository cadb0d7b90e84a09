"""The figures of an evaluation as a table for people at a terminal."""

from collections.abc import Iterator

from daefr.evaluation import SUBJECTS
from pipelines.figures import BenchmarkSummary, summary_of
from pipelines.steps import Committed

TITLES = {"psnr": "PSNR (dB)"}


def table(evaluated: Committed) -> str:
    """Return the measures of all benchmarks as a table for people."""
    summary = summary_of(evaluated.manifest.outputs)
    return "\n".join(line for name, found in summary.benchmarks.items() for line in _lines(name, found))


def _lines(name: str, found: BenchmarkSummary) -> Iterator[str]:
    every = list(found.figures.values())
    measures = list(dict.fromkeys(measure for figures in every for measure in figures))
    held = [measure for measure in measures if any(figures[measure].value is not None for figures in every)]
    counts = f"{found.measured} images" + "".join(
        f", {count} {what}" for what, count in (("missing", found.missing), ("failed", found.failed)) if count
    )
    yield f"{name} ({counts})"
    yield f"{'':>12}" + "".join(f" {TITLES.get(measure, measure.upper()):>10}" for measure in held)
    for subject in SUBJECTS:
        if subject in found.figures:
            cells = (_cell(found.figures[subject][measure].value) for measure in held)
            yield f"{subject.replace('_', ' '):>12}" + "".join(f" {cell:>10}" for cell in cells)
    for measure in measures:
        if measure not in held:
            yield f"{measure} is unavailable: {every[0][measure].problem}"


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
