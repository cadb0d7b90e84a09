"""The initial weights of a training: a checkpoint of the same stage, or the champions of the upstream stages."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from daefr.checkpoint import checkpoint_digest, load_checkpoint
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
    """Either a checkpoint of the same stage, or the champions of the upstream stages."""

    checkpoint: Version | Path | None = None
    champions: Mapping[StageName, Version] = field(default_factory=dict)

    @classmethod
    def find(cls, tracking: Tracking, stage: StageName, checkpoint: str | None) -> "InitialWeights":
        """Find the initial weights of a stage.

        `checkpoint` is a `models:/` address, a checkpoint directory, a released file or None. Raises `UserError` if it
        does not exist or is of another stage, or if an upstream stage has no champion.
        """
        if checkpoint is None:
            return cls(champions={upstream: _champion(tracking, upstream) for upstream in UPSTREAM[stage]})
        if checkpoint.startswith("models:"):
            return cls(registry.resolve(tracking, checkpoint))
        path = Path(checkpoint).absolute()
        if path.is_file():
            check_released(path, stage)
            return cls(path)
        return cls(load_checkpoint(path).path)

    def inputs(self) -> dict[str, StepInput]:
        """Return the weights as inputs of the training step."""
        found = {f"{stage}_champion": _describe(version) for stage, version in self.champions.items()}
        return found if self.checkpoint is None else {**found, "start": _describe(self.checkpoint)}

    def tags(self) -> dict[str, str]:
        """Return the weights as tags of the trained version."""
        found = {f"daefr.upstream.{stage}": version.address for stage, version in self.champions.items()}
        return found if self.checkpoint is None else {**found, "daefr.start": _describe(self.checkpoint).origin}


def _describe(weights: Version | Path) -> StepInput:
    if isinstance(weights, Path):
        return StepInput(digest=(file_digest if weights.is_file() else checkpoint_digest)(weights), origin=str(weights))
    return StepInput(digest=weights.fingerprint, origin=weights.address)


def _champion(tracking: Tracking, stage: StageName) -> Version:
    version = registry.champion(tracking, stage)
    if version is None:
        raise UserError(
            f"{registry.MODELS[stage]} has no champion; train and promote it first, with "
            f"python -m pipelines train --stage {stage} and python -m pipelines promote --stage {stage}"
        )
    return version
