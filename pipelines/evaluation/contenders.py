"""What can be evaluated: a model of ours, another method's released weights, or what was restored elsewhere."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from daefr.checkpoint import digest_of, load_checkpoint
from daefr.data.shards import file_digest
from daefr.errors import UserError
from daefr.evaluation import Method, TrainedModel
from daefr.evaluation.other_methods import MethodName, OtherMethod
from pipelines import registry
from pipelines.registry import Version
from pipelines.tracking import Tracking


class Contender(Protocol):
    """One row of the table. Travels to workers, and loads there."""

    @property
    def label(self) -> str:
        """What it is called in tables."""

    @property
    def origin(self) -> str:
        """Where it comes from, for people."""

    @property
    def digest(self) -> str:
        """Changes with what it makes of an image."""

    def load(self, device: torch.device) -> Method | None:
        """Return what restores; None where the images are restored already. Raises `UserError`."""


@dataclass(frozen=True)
class OurModel:
    """A restoration checkpoint: its directory, or its version in the registry."""

    label: str
    place: Version | Path
    tracking: Tracking

    @classmethod
    def registered(cls, tracking: Tracking, version: Version, label: str | None = None) -> "OurModel":
        """Return the model of a version in the registry."""
        return cls(label or f"{version.name} v{version.number}", version, tracking)

    @property
    def origin(self) -> str:
        """See `Contender`."""
        return self.place.address if isinstance(self.place, Version) else str(self.place)

    @property
    def digest(self) -> str:
        """See `Contender`: that of the checkpoint, whether it is registered or not."""
        return self.place.fingerprint if isinstance(self.place, Version) else digest_of(self.place)

    def load(self, device: torch.device) -> TrainedModel:
        """See `Contender`."""
        if isinstance(self.place, Path):
            return TrainedModel.load(self.place, device)
        with tempfile.TemporaryDirectory(prefix="daefr-") as scratch:
            return TrainedModel.load(registry.download(self.tracking, self.place, Path(scratch)), device)


@dataclass(frozen=True)
class ReleasedMethod:
    """Another method, from the weights that its authors released."""

    label: str
    method: MethodName
    weights: Path
    digest: str

    @property
    def origin(self) -> str:
        """See `Contender`."""
        return f"{self.method}: {self.weights}"

    def load(self, device: torch.device) -> OtherMethod:
        """See `Contender`."""
        return OtherMethod.load(self.method, self.weights, device)


@dataclass(frozen=True)
class RestoredElsewhere:
    """Folders of restored images. What is in them is part of the benchmarks' digests."""

    label: str
    origin: str
    digest: str = ""

    def load(self, device: torch.device) -> None:  # noqa: ARG002  # there is nothing to load
        """See `Contender`."""
        return


def open_model(tracking: Tracking, address: str, label: str | None = None) -> OurModel:
    """Return the model at `models:/NAME@ALIAS`, `models:/NAME/NUMBER` or in a checkpoint directory.

    Raises `UserError` when there is none, or when it is of another stage.
    """
    if address.startswith("models:/"):
        version = registry.resolve(tracking, address)
        if version.name != registry.MODELS["restoration"]:
            raise UserError(f"{address} does not restore; {registry.MODELS['restoration']} does")
        return OurModel.registered(tracking, version, label)
    checkpoint = load_checkpoint(Path(address))
    if checkpoint.stage != "restoration":
        raise UserError(f"{address} is of {checkpoint.stage}; only a restoration checkpoint can be evaluated")
    return OurModel(label or Path(address).resolve().parent.name, Path(address).resolve(), tracking)


def open_method(method: MethodName, weights: Path, label: str | None = None) -> ReleasedMethod:
    """Return another method. Raises `UserError` when its weights, or the library that it needs, are not there."""
    OtherMethod.check(method, weights)
    return ReleasedMethod(label or OtherMethod.title(method), method, weights.resolve(), file_digest(weights))
