"""The definition of a training, which is sent to every worker."""

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
    """Epochs per generation of LQ images."""
    fetch: Fetch | None
    """Downloads shards that are not stored beside the dataset's manifest."""
    checkpoints: Checkpoints
    initial_checkpoint: Version | Path | None
    """A checkpoint of the same stage; if None, the stage starts from `upstream`."""
    upstream: Mapping[StageName, Version]
    tracking: Tracking
    run_id: str
    stop_timeout_s: int
    """Seconds within which the training must end when it is asked to stop."""
    progress: Any
    """A handle of the `ProgressActor`."""
