"""The figures of an evaluation as a table for people at a terminal."""

from collections.abc import Iterator, Mapping

from daefr.evaluation import SUBJECTS
from pipelines.engine.step import StepResult
from pipelines.evaluate.figures import BenchmarkSummary, MeasuredFigure, summary_of

TITLES = {"psnr": "PSNR (dB)"}


def table(evaluated: StepResult) -> str:
    """Return the measures of all benchmarks as a table for people."""
    summary = summary_of(evaluated.outputs)
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
            cells = (_cell(measure, found.figures[subject][measure].value) for measure in held)
            yield f"{subject.replace('_', ' '):>12}" + "".join(f" {cell:>10}" for cell in cells)
    for problem, lacking in group_by_problem(found.figures.get("restored", {})).items():
        yield f"{', '.join(lacking)} unavailable: {problem}"
    yield from notes(found)


def notes(found: BenchmarkSummary) -> Iterator[str]:
    """Say what to bear in mind of the figures that there are: identical images, too few for FID."""
    for subject in SUBJECTS:
        for name, figure in found.figures.get(subject, {}).items():
            if figure.identical:
                yield f"{name} of {subject}: {figure.identical} images are identical to the ground truth, and left out"
    for name, figure in found.figures.get("restored", {}).items():
        if figure.caution:
            yield f"{name}: {figure.caution}"


def group_by_problem(figures: Mapping[str, MeasuredFigure]) -> dict[str, list[str]]:
    """Return the measures that are unavailable, by the reason."""
    groups: dict[str, list[str]] = {}
    for name, figure in figures.items():
        if figure.value is None:
            groups.setdefault(figure.problem, []).append(name)
    return groups


def _cell(measure: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if measure == "psnr" else f"{value:.3f}"
