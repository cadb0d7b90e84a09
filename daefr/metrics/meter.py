"""Several measures over a stream of images, in constant memory."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from daefr.errors import UserError
from daefr.metrics.base import exact_convolutions
from daefr.metrics.fid import FEATURES, Accumulator, Statistics, frechet_distance
from daefr.metrics.pairs import Images
from daefr.metrics.registry import METRIC_KINDS, MetricKind, MetricSetup, real_statistics, requirement
from daefr.settings.metrics import MetricName

NO_TARGET = "it needs ground truth"
FEW_IMAGES = (
    f"of fewer than {FEATURES} images, its network's features, it is far too high: compare it only with that of as many"
)


@dataclass(frozen=True)
class MetricValue:
    """The mean of a measure over `count` images (FID: its one value), or, with None, why there is none.

    Beside these there may be `identical` images, whose PSNR is infinite; only where all are, the mean is infinite too.
    """

    value: float | None
    count: int = 0
    problem: str = ""
    identical: int = 0
    caution: str = ""
    """What to bear in mind when the value is compared; empty where there is nothing."""


@dataclass(frozen=True)
class BatchMetrics:
    """Of each image its figures by name, NaN where one is not defined, and its features (B, F) if FID is measured."""

    rows: list[dict[str, float]]
    features: Tensor | None


class MetricSet:
    """Measures that are ready to use. Those that cannot be had are `unavailable`, each with the reason."""

    def __init__(self, names: Sequence[MetricName], setup: MetricSetup) -> None:
        """Build the measures."""
        self._device = setup.device
        self._columns: dict[str, tuple[MetricKind, Callable[..., Tensor]]] = {}
        self._features: Callable[..., Tensor] | None = None
        self.unavailable: dict[str, str] = {}
        for name in names:
            kind = METRIC_KINDS[name]
            try:
                built = kind.build(setup)
            except UserError as error:
                self.unavailable[name] = str(error)
                continue
            if kind.of_set:
                self._features = built[name]
            else:
                self._columns |= {figure: (kind, compute) for figure, compute in built.items()}

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the figures that each image has."""
        return tuple(self._columns)

    @property
    def gives_features(self) -> bool:
        """Whether there will be features for FID."""
        return self._features is not None

    @torch.no_grad()
    def __call__(self, batch: Sequence[Images]) -> BatchMetrics:
        """Measure images of one size, all or none of them with ground truth; without, what needs it is left out."""
        restored = torch.stack([images.restored for images in batch]).to(self._device)
        targets = [images.target for images in batch if images.target is not None]
        target = torch.stack(targets).to(self._device) if targets else None
        with exact_convolutions():
            features = None if self._features is None else self._features(restored).cpu()
            values = {
                name: _measure(kind, compute, restored, target)
                for name, (kind, compute) in self._columns.items()
                if target is not None or not kind.needs_target
            }
        rows = [{name: column[number] for name, column in values.items()} for number in range(len(batch))]
        return BatchMetrics(rows, features)


class Totals:
    """The means of figures and the distance of features that come one batch after the other."""

    def __init__(self, real: Statistics | None = None) -> None:
        """Begin with none; `real` is what features are compared with."""
        self._real = real
        self._features = Accumulator()
        self._sums: dict[str, float] = {}
        self._counts: Counter[str] = Counter()
        self._identical: Counter[str] = Counter()

    def add(self, rows: Iterable[Mapping[str, float]], features: Tensor | None) -> None:
        """Add what `MetricSet` returned."""
        for row in rows:
            for name, value in row.items():
                finite = math.isfinite(value)
                self._sums[name] = self._sums.get(name, 0.0) + (value if finite else 0.0)
                self._counts[name] += finite
                self._identical[name] += math.isinf(value)
        if features is not None:
            self._features.update(features)

    def figures(self) -> dict[str, MetricValue]:
        """Return what came out so far."""
        means = {name: self._mean(name) for name in self._sums}
        return means if self._real is None else means | {"fid": self._distance(self._real)}

    def _mean(self, name: str) -> MetricValue:
        count, identical = self._counts[name], self._identical[name]
        if not count:
            return MetricValue(math.inf, identical=identical) if identical else undefined(name)
        return MetricValue(self._sums[name] / count, count, identical=identical)

    def _distance(self, real: Statistics) -> MetricValue:
        count = self._features.count
        try:
            distance = frechet_distance(self._features.statistics(), real)
            return MetricValue(distance, count, caution=FEW_IMAGES if count < FEATURES else "")
        except UserError as error:
            return MetricValue(None, problem=str(error))


class Meter:
    """Measures images as they come. What cannot be measured at all becomes a figure that says why."""

    def __init__(self, names: Sequence[MetricName], setup: MetricSetup, *, with_targets: bool) -> None:
        """Build the measures; `with_targets` tells whether the images will have ground truth."""
        possible = [name for name in names if with_targets or not METRIC_KINDS[name].needs_target]
        self._measures = MetricSet(possible, setup)
        self._unavailable = (
            dict.fromkeys((name for name in names if name not in possible), NO_TARGET) | self._measures.unavailable
        )
        self._totals = Totals(real_statistics(setup) if self._measures.gives_features else None)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the figures that each image has."""
        return self._measures.columns

    def update(self, batch: Sequence[Images]) -> list[dict[str, float]]:
        """Measure images of one size; return the figures of each, NaN where one is not defined."""
        measured = self._measures(batch)
        self._totals.add(measured.rows, measured.features)
        return measured.rows

    def figures(self) -> dict[str, MetricValue]:
        """Return what was measured so far."""
        none = {name: undefined(name) for name in self.columns}
        lacking = {name: MetricValue(None, problem=why) for name, why in self._unavailable.items()}
        return none | self._totals.figures() | lacking


def undefined(figure: str) -> MetricValue:
    """Return a figure that no image has."""
    return MetricValue(None, problem=f"there is no image for which it is defined: it needs {requirement(figure)}")


def _measure(kind: MetricKind, compute: Callable[..., Tensor], restored: Tensor, target: Tensor | None) -> list[float]:
    if min(restored.shape[-2:]) < kind.least:
        return [math.nan] * len(restored)
    values: list[float] = (compute(restored, target) if kind.needs_target else compute(restored)).tolist()
    return values
