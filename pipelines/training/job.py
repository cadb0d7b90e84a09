"""What is sent to every worker of a training."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daefr.config import StageName
from daefr.data.dataset import Fetch
from daefr.network.config import NetworkConfig
from daefr.stages.config import TrainingConfig
from pipelines.config import StageCompute
from pipelines.registry import Version
from pipelines.tracking import Tracking
from pipelines.training.checkpoints import Checkpoints


@dataclass(frozen=True)
class Job:
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
    """Brings the dataset's shards where they are not beside its manifest."""
    checkpoints: Checkpoints
    start: Version | Path | None
    """A checkpoint of the stage itself; without one, the stage starts from `upstream`."""
    upstream: Mapping[StageName, Version]
    tracking: Tracking
    run_id: str
    stop_timeout: int
    """Seconds that the driver gives the training to end when it is asked to stop."""
    board: Any
