"""Several measures over a stream of images, in constant memory."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from daefr.errors import UserError
from daefr.metrics.base import MeasureName, exact_convolutions
from daefr.metrics.fid import FrechetDistance
from daefr.metrics.pairs import Images
from daefr.metrics.registry import KINDS, Kind, Setup


@dataclass(frozen=True)
class Figure:
    """The mean of a measure over `count` images (FID: its one value), or, with None, why there is none."""

    value: float | None
    count: int = 0
    problem: str = ""


class Meter:
    """Measures images as they come. What cannot be measured at all becomes a figure that says why."""

    def __init__(self, names: Sequence[MeasureName], setup: Setup, *, with_targets: bool) -> None:
        """Build the measures; `with_targets` tells whether the images will have ground truth."""
        self._device = setup.device
        self._columns: dict[str, tuple[Kind, Callable[..., Tensor]]] = {}
        self._distances: dict[str, FrechetDistance] = {}
        self._unavailable: dict[str, Figure] = {}
        for name in names:
            kind = KINDS[name]
            if kind.needs_target and not with_targets:
                self._unavailable[name] = Figure(None, problem="it needs ground truth (--gt)")
                continue
            try:
                built = kind.build(setup)
            except UserError as error:
                self._unavailable[name] = Figure(None, problem=str(error))
                continue
            if isinstance(built, FrechetDistance):
                self._distances[name] = built
            else:
                self._columns |= {figure: (kind, compute) for figure, compute in built.items()}
        self._images = 0
        self._sums = dict.fromkeys(self._columns, 0.0)
        self._counts = dict.fromkeys(self._columns, 0)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the figures that each image has."""
        return tuple(self._columns)

    def update(self, batch: Sequence[Images]) -> list[dict[str, float]]:
        """Measure images of one size; return the figures of each, NaN where one is not defined."""
        restored = torch.stack([images.restored for images in batch]).to(self._device)
        targets = [images.target for images in batch if images.target is not None]
        target = torch.stack(targets).to(self._device) if targets else None
        self._images += len(batch)
        with exact_convolutions():
            for distance in self._distances.values():
                distance.update(restored)
            values = {
                name: _measure(kind, compute, restored, target) for name, (kind, compute) in self._columns.items()
            }
        for name, column in values.items():
            defined = [value for value in column if not math.isnan(value)]
            self._sums[name] += sum(defined)
            self._counts[name] += len(defined)
        return [{name: column[number] for name, column in values.items()} for number in range(len(batch))]

    def figures(self) -> dict[str, Figure]:
        """Return what was measured so far."""
        means = {name: self._mean(name) for name in self._columns}
        return means | {name: self._value(name) for name in self._distances} | self._unavailable

    def _mean(self, name: str) -> Figure:
        if not self._counts[name]:
            return Figure(None, problem="there is no image for which it is defined")
        return Figure(self._sums[name] / self._counts[name], self._counts[name])

    def _value(self, name: str) -> Figure:
        try:
            return Figure(self._distances[name].value(), self._images)
        except UserError as error:
            return Figure(None, problem=str(error))


@torch.no_grad()
def _measure(kind: Kind, compute: Callable[..., Tensor], restored: Tensor, target: Tensor | None) -> list[float]:
    if min(restored.shape[-2:]) < kind.least:
        return [math.nan] * len(restored)
    values: list[float] = (compute(restored, target) if kind.needs_target else compute(restored)).tolist()
    return values
