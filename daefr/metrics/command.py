"""The work of the commands `daefr measure` and `daefr fid-statistics`, and what they print."""

import argparse
import contextlib
import csv
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from daefr.errors import UserError
from daefr.files import refuse_existing, write_named
from daefr.listing import PassedOver
from daefr.metrics.base import exact_convolutions
from daefr.metrics.fid import Accumulator
from daefr.metrics.meter import Meter, MetricValue
from daefr.metrics.options import BATCH_ON_CPU, BATCH_ON_GPU, WITH_TARGETS, WITHOUT_TARGETS
from daefr.metrics.pairs import Images, Pair, Unusable, batches, find_pairs, read_ahead
from daefr.metrics.registry import METRIC_KINDS, MetricSetup, load_inception, requirement
from daefr.settings.metrics import METRICS, MetricName


def measure(options: argparse.Namespace) -> int:
    """Measure and print; return 0, or 1 when an image or a measure is left out. Raises `UserError` for bad input."""
    names = _names(options)
    passed_over = PassedOver()
    pairs = find_pairs(options.restored, options.gt, passed_over, options.suffix)
    for line in passed_over.named():
        tqdm.write(f"passed over: {line}", file=sys.stderr)
    setup = MetricSetup(options.protocol, torch.device(options.device), _weights(options), options.fid_statistics)
    meter = Meter(names, setup, with_targets=options.gt is not None)
    measured = 0
    unusable: list[Unusable] = []
    with _table(options, ["name", *meter.columns, "problem"]) as table:
        for batch in _batches(pairs, options):
            if isinstance(batch, Unusable):
                unusable.append(batch)
                table({"name": batch.name, "problem": batch.problem})
                continue
            measured += len(batch)
            for images, row in zip(batch, meter.update(batch), strict=True):
                table({"name": images.name} | {name: _cell(value) for name, value in row.items()})
    measurement = Measurement(options.protocol, meter.figures(), measured, unusable, passed_over)
    sys.stdout.write(measurement.as_json() if options.json else measurement.as_text())
    return 0 if measurement.is_complete else 1


def compute_statistics(options: argparse.Namespace) -> int:
    """Store the statistics of a folder for FID; return 0, or 1 when an image is left out."""
    pairs = find_pairs(options.images, None)
    if options.target.suffix != ".npz" or not options.target.parent.is_dir():
        raise UserError(f"{options.target} cannot be written: give an .npz file in a folder that exists")
    refuse_existing(options.target, "OUT.npz", overwrite=options.overwrite)
    network = load_inception(_weights(options), torch.device(options.device))
    features = Accumulator()
    failed = 0
    for batch in _batches(pairs, options):
        if isinstance(batch, Unusable):
            failed += 1
        else:
            with torch.no_grad(), exact_convolutions():
                features.update(network(torch.stack([images.restored for images in batch]).to(options.device)))
    statistics = features.statistics()
    try:
        with write_named(options.target, "OUT.npz", overwrite=options.overwrite) as temporary:
            statistics.write(temporary)
    except OSError as error:
        raise UserError(f"{options.target} cannot be written: {error.strerror}") from None
    sys.stdout.write(f"statistics of {features.count} images in {options.target}, {failed} failed\n")
    return 1 if failed else 0


def _names(options: argparse.Namespace) -> tuple[MetricName, ...]:
    if options.metrics is None:
        return WITH_TARGETS if options.gt is not None else WITHOUT_TARGETS
    asked = options.metrics.split(",")
    unknown = sorted(set(asked) - set(METRICS))
    if unknown:
        raise UserError(f"--metrics {options.metrics}: {unknown[0]!r} is none of {', '.join(METRICS)}")
    return tuple(name for name in METRICS if name in asked)


def _weights(options: argparse.Namespace) -> Path | None:
    folder: Path | None = options.weights
    if folder is not None and not folder.is_dir():
        raise UserError(f"--weights {folder} is not a folder")
    return folder


def _batches(pairs: Sequence[Pair | Unusable], options: argparse.Namespace) -> Iterator[list[Images] | Unusable]:
    """Read and batch with a progress bar, and tell what is unusable as it comes."""
    size = BATCH_ON_GPU if options.device != "cpu" else BATCH_ON_CPU
    if options.batch is not None:
        size = options.batch
    if size < 1:
        raise UserError(f"--batch {size}: at least one image has to be measured at once")
    with tqdm(total=len(pairs), unit=" images", disable=not sys.stderr.isatty()) as bar:
        for batch in batches(read_ahead(pairs), size):
            if isinstance(batch, Unusable):
                tqdm.write(f"left out: {batch.name}: {batch.problem}", file=sys.stderr)
                bar.update()
                yield batch
            else:
                yield batch
                bar.update(len(batch))


@contextlib.contextmanager
def _table(options: argparse.Namespace, columns: Sequence[str]) -> Iterator[Any]:
    """Yield a function that writes a row; the file has its name once it is complete."""
    path: Path | None = options.per_image
    if path is None:
        yield lambda _: None
        return
    with contextlib.ExitStack() as stack:
        try:
            temporary = stack.enter_context(write_named(path, "--per-image", overwrite=options.overwrite))
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from None
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            yield writer.writerow


def _cell(value: float) -> float | str:
    return "" if math.isnan(value) else value


@dataclass(frozen=True)
class Measurement:
    """What was measured: the metrics of so many images, and what is in none of them."""

    protocol: str
    metrics: Mapping[str, MetricValue]
    measured: int
    unusable: Sequence[Unusable]
    passed_over: PassedOver

    @property
    def is_complete(self) -> bool:
        """Whether every image is in every metric."""
        return not self.unusable and not any(self._left_out(metric) for metric in self.metrics.values())

    def as_text(self) -> str:
        """Return the lines for people."""
        missing = sum(each.missing for each in self.unusable)
        failed = len(self.unusable) - missing
        counts = f"{self.measured} measured, {missing} missing, {failed} failed{self.passed_over.summary()}"
        lines = [f"protocol {self.protocol}; images: {counts}"]
        for name, metric in self.metrics.items():
            if metric.value is None:
                lines.append(f"{name:>9}  unavailable: {metric.problem}")
                continue
            unit = METRIC_KINDS[name].unit if name in METRIC_KINDS else ""
            notes = "".join(f"  ({note})" for note in self._notes(name, metric))
            lines.append(f"{name:>9} {metric.value:>10.4f} {unit}".rstrip() + notes)
        return "\n".join([*lines, ""])

    def as_json(self) -> str:
        """Return one object for programs."""
        content = {
            "protocol": self.protocol,
            "measured": self.measured,
            "missing": [each.name for each in self.unusable if each.missing],
            "failed": {each.name: each.problem for each in self.unusable if not each.missing},
            "passed_over": asdict(self.passed_over),
            "metrics": {name: self._metric_as_json(name, metric) for name, metric in self.metrics.items()},
        }
        return json.dumps(content, indent=2) + "\n"

    def _metric_as_json(self, name: str, metric: MetricValue) -> dict[str, Any]:
        if metric.value is None:
            return {"unavailable": metric.problem}
        # JSON knows no infinity, which PSNR has for equal images
        found = {"value": "inf" if math.isinf(metric.value) else metric.value, "images": metric.count}
        notes = {"identical": metric.identical, "notes": list(self._notes(name, metric))}
        return found | {key: value for key, value in notes.items() if value}

    def _left_out(self, metric: MetricValue) -> int:
        return self.measured - metric.count - metric.identical

    def _notes(self, name: str, metric: MetricValue) -> Iterator[str]:
        if metric.count < self.measured and metric.count:
            yield f"of {metric.count} images"
        if metric.identical:
            yield f"{metric.identical} identical to the ground truth"
        if left_out := self._left_out(metric):
            yield f"{left_out} left out: it needs {requirement(name)}"
        if metric.caution:
            yield metric.caution
