"""The content of a report: tables, differences to the champion, and which faces to show."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow.parquet as pq

from daefr.errors import UserError
from daefr.evaluation import ImageKind, column
from daefr.metrics.bootstrap import Interval, mean_difference
from daefr.metrics.registry import higher_is_better
from pipelines.engine.step import StepResult
from pipelines.evaluate.parts import THUMBNAIL, THUMBNAILS, part_path
from pipelines.evaluate.report.published import published
from pipelines.evaluate.results import BenchmarkSummary, Summary, load_summary, metrics_file, read_image_metrics
from pipelines.evaluate.tables import group_by_problem, notes

# in the paper's order
COLUMNS = ("fid", "lpips", "lpips_01", "niqe", "ida", "lmd", "psnr", "ssim")
# faces are ranked by the first of these that is available
RANKING = ("lpips", "psnr", "niqe", "ssim", "ida", "lmd")
FACES = 10
Kind = Literal["published", "input", "bound", "method", "champion", "candidate"]
COMPETING: tuple[Kind, ...] = ("method", "champion", "candidate")


class EvaluationResult:
    """A committed evaluation: its summary, and the metrics of each image, which are read on first use."""

    def __init__(self, result: StepResult) -> None:
        """Open the evaluation in a step's folder."""
        self.result, self.folder = result, result.folder
        self._image_metrics: dict[str, dict[str, dict[str, float]]] = {}

    @cached_property
    def summary(self) -> Summary:
        """The summary in the manifest."""
        return load_summary(self.result.outputs)

    @property
    def target(self) -> tuple[str, str]:
        """Identifies the evaluated model."""
        return self.summary.target, self.result.manifest.inputs["target"].digest

    def benchmark_digest(self, name: str) -> str | None:
        """Return the digest of a benchmark's images, None if it was not evaluated."""
        found = self.result.manifest.inputs.get(f"benchmark {name}")
        return None if found is None else found.digest

    def image_metrics(self, benchmark: str) -> dict[str, dict[str, float]]:
        """Return image -> metric -> value for the restored images, in the order of the benchmark."""
        if benchmark not in self._image_metrics:
            names = {column(metric, "restored"): metric for metric in COLUMNS}
            found = read_image_metrics(self.folder, benchmark, list(names))
            self._image_metrics[benchmark] = {
                image: {names[name]: value for name, value in row.items()} for image, row in found.items()
            }
        return self._image_metrics[benchmark]

    def thumbnails(self, benchmark: str, image: str) -> dict[str, str]:
        """Return the thumbnails of an image as `data:` URLs, by name; empty if it was not restored."""
        number = list(self.image_metrics(benchmark)).index(image)
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
    """A row of the table; `best` are the metrics in which it is the best."""

    label: str
    kind: Kind
    values: dict[str, float]
    best: set[str] = field(default_factory=set)

    @property
    def is_published(self) -> bool:
        """Whether the values were published by others."""
        return self.kind == "published"


@dataclass(frozen=True)
class Difference:
    """The difference of a metric to the champion's, without an interval for metrics of whole sets such as FID."""

    metric: str
    champion: float
    candidate: float
    interval: Interval | None

    @property
    def value(self) -> float:
        """Candidate minus champion; over the images that both have, if there is an interval."""
        return self.candidate - self.champion if self.interval is None else self.interval.difference

    @property
    def verdict(self) -> str:
        """Whether the candidate is better or worse, if the interval excludes 0."""
        if self.interval is None:
            return "no interval"
        if self.interval.low <= 0 <= self.interval.high:
            return "not significant"
        return "better" if (self.value > 0) == higher_is_better(self.metric) else "worse"


@dataclass(frozen=True)
class Strip:
    """A face to show: its thumbnails by title, None if missing, and a caption."""

    image: str
    pictures: dict[str, str | None]
    caption: str


@dataclass(frozen=True)
class BenchmarkReport:
    """The content of a report for one benchmark."""

    name: str
    summary: BenchmarkSummary
    metrics: list[str]
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
    """Compare evaluations on one benchmark; `champion` and `others` evaluated the same images."""
    found = candidate.summary.benchmarks[name]
    rows = rank([*_published(name), *_rows(name, candidate, champion, others)])
    metrics = [metric for metric in COLUMNS if any(metric in row.values for row in rows)]
    ranked_by = next((metric for metric in RANKING if metric in _values(found, "restored")), None)
    return BenchmarkReport(
        name=name,
        summary=found,
        metrics=metrics,
        rows=rows,
        differences=[] if champion is None else list(_differences(name, candidate, champion)),
        distributions=_distributions(name, candidate, champion),
        ranked_by=ranked_by,
        faces={} if ranked_by is None else _faces(name, ranked_by, candidate, champion),
        problems=_problems(name, candidate),
        unavailable=group_by_problem(found.metrics.get("restored", {})),
        notes=list(notes(found)),
    )


def _published(name: str) -> Iterator[Row]:
    table = published().benchmarks.get(name)
    if table is not None:
        for label, values in table.rows.items():
            yield Row(label, "published", dict(zip(table.metrics, values, strict=True)))


def _rows(
    name: str, candidate: EvaluationResult, champion: EvaluationResult | None, others: Sequence[EvaluationResult]
) -> Iterator[Row]:
    found = candidate.summary.benchmarks[name]
    if "lq" in found.metrics:
        yield Row("Input", "input", _values(found, "lq"))
    if "hq_codebook" in found.metrics:
        yield Row("HQ reconstruction", "bound", _values(found, "hq_codebook"))
    for other in others:
        yield Row(other.summary.target, "method", _values(other.summary.benchmarks[name], "restored"))
    if champion is not None:
        yield Row(champion.summary.target, "champion", _values(champion.summary.benchmarks[name], "restored"))
    yield Row(candidate.summary.target, "candidate", _values(found, "restored"))


def _values(found: BenchmarkSummary, kind: ImageKind) -> dict[str, float]:
    return {name: result.value for name, result in found.metrics.get(kind, {}).items() if result.value is not None}


def rank(rows: Sequence[Row]) -> list[Row]:
    """Mark the best value of each metric, separately among our own results and among published ones."""
    for group in (COMPETING, ("published",)):
        competing = [row for row in rows if row.kind in group and row.label != "Input"]
        for metric in COLUMNS:
            values = [row.values[metric] for row in competing if metric in row.values]
            if len(values) > 1:
                best = max(values) if higher_is_better(metric) else min(values)
                for row in competing:
                    if row.values.get(metric) == best:
                        row.best.add(metric)
    return list(rows)


def _differences(name: str, candidate: EvaluationResult, champion: EvaluationResult) -> Iterator[Difference]:
    ours, theirs = (_values(each.summary.benchmarks[name], "restored") for each in (candidate, champion))
    one, other = candidate.image_metrics(name), champion.image_metrics(name)
    common = [image for image in one if image in other]
    for metric in COLUMNS:
        if metric not in ours or metric not in theirs:
            continue
        interval = None
        if metric != "fid":
            try:
                interval = mean_difference(
                    [one[image][metric] for image in common], [other[image][metric] for image in common]
                )
            except UserError:
                continue
        yield Difference(metric, theirs[metric], ours[metric], interval)


def _distributions(
    name: str, candidate: EvaluationResult, champion: EvaluationResult | None
) -> dict[str, dict[str, list[float]]]:
    """Return metric -> series -> values of all images."""
    series = {"champion": champion, "restored": candidate}
    found: dict[str, dict[str, list[float]]] = {}
    for metric in COLUMNS:
        values = {
            title: [row[metric] for row in each.image_metrics(name).values() if np.isfinite(row[metric])]
            for title, each in series.items()
            if each is not None
        }
        if values["restored"]:
            found[metric] = {title: each for title, each in values.items() if each}
    return found


def _faces(
    name: str, metric: str, candidate: EvaluationResult, champion: EvaluationResult | None
) -> dict[str, list[Strip]]:
    ours = {image: row[metric] for image, row in candidate.image_metrics(name).items() if np.isfinite(row[metric])}
    theirs = {} if champion is None else {image: row[metric] for image, row in champion.image_metrics(name).items()}
    ordered = sorted(ours, key=lambda image: (ours[image], image), reverse=higher_is_better(metric))
    changes = {image: value - theirs[image] for image, value in ours.items() if np.isfinite(theirs.get(image, np.nan))}
    # if there are few faces, none is listed as both best and worst
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
        caption = f"{metric.upper()} {ours[image]:.3f}"
        return Strip(image, shown, caption + (f" ({changes[image]:+.3f})" if image in changes else ""))

    return {title: [strip(image) for image in images] for title, images in chosen.items() if images}


def _problems(name: str, candidate: EvaluationResult) -> list[tuple[str, str]]:
    rows = pq.read_table(
        metrics_file(candidate.folder), columns=["image", "problem"], filters=[("benchmark", "=", name)]
    ).to_pylist()
    return [(row["image"], row["problem"]) for row in rows if row["problem"]]


def select_comparable(
    name: str, candidate: EvaluationResult, found: Sequence[EvaluationResult]
) -> list[EvaluationResult]:
    """Return those of `found` with comparable metrics, the newest of each label.

    They evaluated the same images of a benchmark, at the same resolution, under the same protocol.
    """
    newest: dict[str, EvaluationResult] = {}
    for other in sorted(found, key=lambda each: each.result.manifest.finished):
        same = other.benchmark_digest(name) == candidate.benchmark_digest(name)
        if same and other.target != candidate.target and _is_comparable(candidate.summary, other.summary):
            newest[other.summary.target] = other
    return list(newest.values())


def _is_comparable(one: Summary, other: Summary) -> bool:
    sides = {summary.resolution for summary in (one, other)} - {None}
    return one.protocol == other.protocol and len(sides) <= 1
