"""What is sent to every worker of a training."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daefr.data.manifest import Fetch
from daefr.settings.base import StageName
from daefr.settings.network import NetworkConfig
from daefr.settings.training import TrainingConfig
from pipelines.tracking.client import Tracking
from pipelines.tracking.registry import Version
from pipelines.train.checkpoints import Checkpoints
from pipelines.train.settings import StageCompute


@dataclass(frozen=True)
class TrainingJob:
    """Everything that a worker needs to train a stage."""

    stage: StageName
    network: NetworkConfig
    training: TrainingConfig
    compute: StageCompute
    seed: int
    dataset: Path
    refresh: int | None
    """Epochs after which the LQ images are those of the next generation."""
    fetch: Fetch | None
    """Downloads the dataset's shards where they are not beside its manifest."""
    checkpoints: Checkpoints
    start: Version | Path | None
    """A checkpoint of the stage itself; without one, the stage starts from `upstream`."""
    upstream: Mapping[StageName, Version]
    tracking: Tracking
    run_id: str
    stop_timeout_s: int
    """Seconds that the driver gives the training to end when it is asked to stop."""
    progress: Any
    """A handle of the `ProgressActor`."""
