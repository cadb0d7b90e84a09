"""The weights that a training starts from: a checkpoint of the stage itself, or the champions of the stages before."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from daefr.checkpoint import digest_of, load_checkpoint
from daefr.errors import UserError
from daefr.files import file_digest
from daefr.released import check_released
from daefr.settings.base import StageName
from daefr.stages import UPSTREAM
from pipelines.engine.step import StepInput
from pipelines.tracking import registry
from pipelines.tracking.client import Tracking
from pipelines.tracking.registry import Version


@dataclass(frozen=True)
class InitialWeights:
    """Either `start`, a checkpoint of the stage itself, or the champions of the stages before it."""

    start: Version | Path | None = None
    champions: Mapping[StageName, Version] = field(default_factory=dict)

    @classmethod
    def find(cls, tracking: Tracking, stage: StageName, start: str | None) -> "InitialWeights":
        """Find what a stage starts from; `start` is a `models:/` address, a checkpoint directory or a released file.

        Raises `UserError` for a start that does not exist or is of another stage, and where a stage before has no
        champion.
        """
        if start is None:
            return cls(champions={before: _champion(tracking, before) for before in UPSTREAM[stage]})
        if start.startswith("models:"):
            return cls(registry.resolve(tracking, start))
        path = Path(start).absolute()
        if path.is_file():
            check_released(path, stage)
            return cls(path)
        return cls(load_checkpoint(path).path)

    def inputs(self) -> dict[str, StepInput]:
        """Return the weights as inputs of the training step."""
        found = {f"{stage}_champion": _describe(version) for stage, version in self.champions.items()}
        return found if self.start is None else {**found, "start": _describe(self.start)}

    def tags(self) -> dict[str, str]:
        """Return the tags that tell a version's page what the version started from."""
        found = {f"daefr.upstream.{stage}": version.address for stage, version in self.champions.items()}
        return found if self.start is None else {**found, "daefr.start": _describe(self.start).origin}


def _describe(weights: Version | Path) -> StepInput:
    if isinstance(weights, Path):
        return StepInput(digest=(file_digest if weights.is_file() else digest_of)(weights), origin=str(weights))
    return StepInput(digest=weights.fingerprint, origin=weights.address)


def _champion(tracking: Tracking, stage: StageName) -> Version:
    version = registry.champion(tracking, stage)
    if version is None:
        raise UserError(
            f"{registry.MODELS[stage]} has no champion to start from: train it and promote it first, with "
            f"python -m pipelines train --stage {stage} and python -m pipelines promote --stage {stage}"
        )
    return version
