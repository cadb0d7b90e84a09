"""What a report tells, as data: tables, differences, and which faces to show."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow.parquet as pq

from daefr.errors import UserError
from daefr.evaluation import column
from daefr.metrics.bootstrap import Interval, mean_difference
from daefr.metrics.registry import higher_is_better
from pipelines.engine.step import StepResult
from pipelines.evaluate.figures import FIGURES, BenchmarkSummary, Summary, read_figures, summary_of
from pipelines.evaluate.parts import THUMBNAIL, THUMBNAILS, part_path
from pipelines.evaluate.report.published import published
from pipelines.evaluate.tables import group_by_problem, notes

# the paper's order
COLUMNS = ("fid", "lpips", "lpips_01", "niqe", "ida", "lmd", "psnr", "ssim")
# what faces are ranked by: the first that there is
RANKING = ("lpips", "psnr", "niqe", "ssim", "ida", "lmd")
FACES = 10
Kind = Literal["published", "input", "bound", "method", "champion", "candidate"]
COMPETING: tuple[Kind, ...] = ("method", "champion", "candidate")


class EvaluationResult:
    """A committed evaluation: its summary, and its figures, read when they are first used."""

    def __init__(self, result: StepResult) -> None:
        """Open the evaluation in a step's folder."""
        self.result, self.folder = result, result.folder
        self._figures: dict[str, dict[str, dict[str, float]]] = {}

    @cached_property
    def summary(self) -> Summary:
        """What came out."""
        return summary_of(self.result.outputs)

    @property
    def target(self) -> tuple[str, str]:
        """What tells whether another evaluation is of the same model."""
        return self.summary.subject, self.result.manifest.inputs["target"].digest

    def benchmark_digest(self, name: str) -> str | None:
        """Return what tells whether another evaluation saw the same images."""
        found = self.result.manifest.inputs.get(f"benchmark {name}")
        return None if found is None else found.digest

    def figures(self, benchmark: str) -> dict[str, dict[str, float]]:
        """Return image -> measure -> figure of what was restored, in the order of the benchmark."""
        if benchmark not in self._figures:
            names = {column(measure, "restored"): measure for measure in COLUMNS}
            found = read_figures(self.folder, benchmark, list(names))
            self._figures[benchmark] = {
                image: {names[name]: value for name, value in row.items()} for image, row in found.items()
            }
        return self._figures[benchmark]

    def thumbnails(self, benchmark: str, image: str) -> dict[str, str]:
        """Return the thumbnails of an image as `data:` addresses, by name; none where it was not restored."""
        number = list(self.figures(benchmark)).index(image)
        path, row = part_path(self.folder, benchmark, number)
        columns = [f"{THUMBNAIL}{name}" for name in THUMBNAILS]
        found = pq.read_table(path, columns=columns).slice(row, 1).to_pylist()[0]
        return {
            name.removeprefix(THUMBNAIL): f"data:image/webp;base64,{base64.b64encode(data).decode()}"
            for name, data in found.items()
            if data
        }


@dataclass(frozen=True)
class Row:
    """A row of the table; `best` are the measures in which it is."""

    label: str
    kind: Kind
    values: dict[str, float]
    best: set[str] = field(default_factory=set)

    @property
    def is_published(self) -> bool:
        """Whether someone else measured it."""
        return self.kind == "published"


@dataclass(frozen=True)
class Difference:
    """How a measure differs from the champion's. Of a whole set's measure there is no interval."""

    measure: str
    champion: float
    candidate: float
    interval: Interval | None

    @property
    def value(self) -> float:
        """The candidate's minus the champion's, over the images that both have where there is an interval."""
        return self.candidate - self.champion if self.interval is None else self.interval.difference

    @property
    def verdict(self) -> str:
        """In a word; as the interval says, where it does not hold 0."""
        if self.interval is None:
            return "no interval"
        if self.interval.low <= 0 <= self.interval.high:
            return "no sure difference"
        return "better" if (self.value > 0) == higher_is_better(self.measure) else "worse"


@dataclass(frozen=True)
class Strip:
    """A face to be shown: its thumbnails by title, None where there is none, and what to say of it."""

    image: str
    pictures: dict[str, str | None]
    caption: str


@dataclass(frozen=True)
class BenchmarkReport:
    """Everything about one benchmark."""

    name: str
    summary: BenchmarkSummary
    measures: list[str]
    rows: list[Row]
    differences: list[Difference]
    distributions: dict[str, dict[str, list[float]]]
    ranked_by: str | None
    faces: dict[str, list[Strip]]
    problems: list[tuple[str, str]]
    unavailable: dict[str, list[str]]
    """Measures, by the reason."""
    notes: list[str]


def compare(
    name: str, candidate: EvaluationResult, champion: EvaluationResult | None, others: Sequence[EvaluationResult]
) -> BenchmarkReport:
    """Gather what there is to tell of one benchmark. `champion` and `others` are of the same images."""
    found = candidate.summary.benchmarks[name]
    rows = rank([*_published(name), *_rows(name, candidate, champion, others)])
    measures = [measure for measure in COLUMNS if any(measure in row.values for row in rows)]
    ranked_by = next((measure for measure in RANKING if measure in _values(found, "restored")), None)
    return BenchmarkReport(
        name=name,
        summary=found,
        measures=measures,
        rows=rows,
        differences=[] if champion is None else list(_differences(name, candidate, champion)),
        distributions=_distributions(name, candidate, champion),
        ranked_by=ranked_by,
        faces={} if ranked_by is None else _faces(name, ranked_by, candidate, champion),
        problems=_problems(name, candidate),
        unavailable=group_by_problem(found.figures.get("restored", {})),
        notes=list(notes(found)),
    )


def _published(name: str) -> Iterator[Row]:
    table = published().benchmarks.get(name)
    if table is not None:
        for label, values in table.rows.items():
            yield Row(label, "published", dict(zip(table.measures, values, strict=True)))


def _rows(
    name: str, candidate: EvaluationResult, champion: EvaluationResult | None, others: Sequence[EvaluationResult]
) -> Iterator[Row]:
    found = candidate.summary.benchmarks[name]
    if "lq" in found.figures:
        yield Row("Input", "input", _values(found, "lq"))
    if "hq_codebook" in found.figures:
        yield Row("HQ through the codebook", "bound", _values(found, "hq_codebook"))
    for other in others:
        yield Row(other.summary.subject, "method", _values(other.summary.benchmarks[name], "restored"))
    if champion is not None:
        yield Row(champion.summary.subject, "champion", _values(champion.summary.benchmarks[name], "restored"))
    yield Row(candidate.summary.subject, "candidate", _values(found, "restored"))


def _values(found: BenchmarkSummary, subject: Literal["lq", "hq_codebook", "restored"]) -> dict[str, float]:
    return {name: figure.value for name, figure in found.figures.get(subject, {}).items() if figure.value is not None}


def rank(rows: Sequence[Row]) -> list[Row]:
    """Mark the best of each measure: among what was measured here, and among what was published."""
    for group in (COMPETING, ("published",)):
        competing = [row for row in rows if row.kind in group and row.label != "Input"]
        for measure in COLUMNS:
            values = [row.values[measure] for row in competing if measure in row.values]
            if len(values) > 1:
                best = max(values) if higher_is_better(measure) else min(values)
                for row in competing:
                    if row.values.get(measure) == best:
                        row.best.add(measure)
    return list(rows)


def _differences(name: str, candidate: EvaluationResult, champion: EvaluationResult) -> Iterator[Difference]:
    ours, theirs = (_values(each.summary.benchmarks[name], "restored") for each in (candidate, champion))
    one, other = candidate.figures(name), champion.figures(name)
    common = [image for image in one if image in other]
    for measure in COLUMNS:
        if measure not in ours or measure not in theirs:
            continue
        interval = None
        if measure != "fid":
            try:
                interval = mean_difference(
                    [one[image][measure] for image in common], [other[image][measure] for image in common]
                )
            except UserError:
                continue
        yield Difference(measure, theirs[measure], ours[measure], interval)


def _distributions(
    name: str, candidate: EvaluationResult, champion: EvaluationResult | None
) -> dict[str, dict[str, list[float]]]:
    """Return measure -> series -> values of all images."""
    series = {"champion": champion, "restored": candidate}
    found: dict[str, dict[str, list[float]]] = {}
    for measure in COLUMNS:
        values = {
            title: [row[measure] for row in each.figures(name).values() if np.isfinite(row[measure])]
            for title, each in series.items()
            if each is not None
        }
        if values["restored"]:
            found[measure] = {title: each for title, each in values.items() if each}
    return found


def _faces(
    name: str, measure: str, candidate: EvaluationResult, champion: EvaluationResult | None
) -> dict[str, list[Strip]]:
    figures = {image: row[measure] for image, row in candidate.figures(name).items() if np.isfinite(row[measure])}
    theirs = {} if champion is None else {image: row[measure] for image, row in champion.figures(name).items()}
    ordered = sorted(figures, key=lambda image: (figures[image], image), reverse=higher_is_better(measure))
    changes = {
        image: value - theirs[image] for image, value in figures.items() if np.isfinite(theirs.get(image, np.nan))
    }
    # of a few faces, none is among both
    count = min(FACES, (len(ordered) + 1) // 2)
    chosen = {"Best": ordered[:count], "Worst": ordered[::-1][: min(FACES, len(ordered) - count)]}
    if changes:
        chosen["Most changed"] = sorted(changes, key=lambda image: (-abs(changes[image]), image))[:FACES]

    def strip(image: str) -> Strip:
        pictures = candidate.thumbnails(name, image)
        shown: dict[str, str | None] = {"LQ": pictures.get("lq")}
        if champion is not None:
            before = champion.thumbnails(name, image) if image in theirs else {}
            shown["champion"] = before.get("restored")
        shown["restored" if champion is None else "candidate"] = pictures.get("restored")
        if "hq" in pictures:
            shown["HQ"] = pictures["hq"]
        caption = f"{measure.upper()} {figures[image]:.3f}"
        return Strip(image, shown, caption + (f" ({changes[image]:+.3f})" if image in changes else ""))

    return {title: [strip(image) for image in images] for title, images in chosen.items() if images}


def _problems(name: str, candidate: EvaluationResult) -> list[tuple[str, str]]:
    rows = pq.read_table(
        candidate.folder / FIGURES, columns=["image", "problem"], filters=[("benchmark", "=", name)]
    ).to_pylist()
    return [(row["image"], row["problem"]) for row in rows if row["problem"]]


def on_the_same_images(
    name: str, candidate: EvaluationResult, found: Sequence[EvaluationResult]
) -> list[EvaluationResult]:
    """Return those of `found` whose figures compare, the newest of each label.

    They saw the same images of a benchmark, at the same resolution, under the same protocol.
    """
    newest: dict[str, EvaluationResult] = {}
    for other in sorted(found, key=lambda each: each.result.manifest.finished):
        same = other.benchmark_digest(name) == candidate.benchmark_digest(name)
        if same and other.target != candidate.target and _compare(candidate.summary, other.summary):
            newest[other.summary.subject] = other
    return list(newest.values())


def _compare(one: Summary, other: Summary) -> bool:
    sides = {summary.resolution for summary in (one, other)} - {None}
    return one.protocol == other.protocol and len(sides) <= 1
