"""Evaluation targets: a DAEFR model, another method's released weights, or precomputed results."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from daefr.evaluation import Method, TrainedModel
from daefr.evaluation.other_methods import MethodName, OtherMethod
from daefr.files import file_digest
from pipelines.tracking.client import Tracking
from pipelines.tracking.models import Model, find_model
from pipelines.tracking.registry import Version


class EvaluationTarget(Protocol):
    """Something to evaluate: one row of the report's table. It is sent to workers, which load it."""

    @property
    def label(self) -> str:
        """Its name in tables."""

    @property
    def origin(self) -> str:
        """Where it comes from, in readable form."""

    @property
    def digest(self) -> str:
        """A digest that changes if the target's results may change."""

    def load(self, device: torch.device) -> Method | None:
        """Load the method; None for precomputed results. Raises `UserError`."""


@dataclass(frozen=True)
class DaefrModel:
    """A DAEFR model: a version in the registry, a checkpoint directory or a released file."""

    label: str
    model: Model
    tracking: Tracking

    @classmethod
    def registered(cls, tracking: Tracking, version: Version) -> "DaefrModel":
        """Return the model of a version in the registry."""
        model = Model.registered(version)
        return cls(_title(model), model, tracking)

    @property
    def origin(self) -> str:
        """See `EvaluationTarget`."""
        return self.model.name

    @property
    def digest(self) -> str:
        """See `EvaluationTarget`."""
        return self.model.digest

    def load(self, device: torch.device) -> TrainedModel:
        """See `EvaluationTarget`."""
        with tempfile.TemporaryDirectory(prefix="daefr-") as scratch:
            return TrainedModel.load(self.model.fetch(self.tracking, Path(scratch)), device)


@dataclass(frozen=True)
class ReleasedMethod:
    """Another method, with the weights that its authors released."""

    label: str
    method: MethodName
    weights: Path
    digest: str

    @property
    def origin(self) -> str:
        """See `EvaluationTarget`."""
        return f"{self.method}: {self.weights}"

    def load(self, device: torch.device) -> OtherMethod:
        """See `EvaluationTarget`."""
        return OtherMethod.load(self.method, self.weights, device)


@dataclass(frozen=True)
class PrecomputedResults:
    """Folders of restored images, whose content is part of the benchmarks' digests."""

    label: str
    origin: str
    digest: str = ""

    def load(self, device: torch.device) -> None:  # noqa: ARG002  # there is nothing to load
        """See `EvaluationTarget`."""
        return


def open_model(tracking: Tracking, address: str, label: str | None = None) -> DaefrModel:
    """Return the model at an address. Raises like `find_model`."""
    model = find_model(tracking, address)
    return DaefrModel(label or _title(model), model, tracking)


def _title(model: Model) -> str:
    if model.version is not None:
        return f"{model.version.name} v{model.version.number}"
    path = Path(model.name)
    return path.parent.name if path.is_dir() else path.stem


def open_method(method: MethodName, weights: Path, label: str | None = None) -> ReleasedMethod:
    """Return another method. Raises `UserError` if its weights or the library that it needs are missing."""
    OtherMethod.check(method, weights)
    return ReleasedMethod(label or OtherMethod.title(method), method, weights.resolve(), file_digest(weights))
