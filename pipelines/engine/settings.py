"""Settings of compute that several steps share: retries, time-outs, caches and checkpoints."""

from pathlib import Path
from typing import Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from daefr.settings.base import Place, Settings
from pipelines.storage.address import is_address, split_address


class EngineCompute(Settings):
    """The resources and time-outs that several steps share; they do not change any result."""

    max_in_flight: PositiveInt | None = Field(
        None,
        description="Largest number of synthesis tasks submitted at a time. By default, two per CPU of the cluster.",
    )
    max_task_retries: NonNegativeInt = Field(
        3, description="Number of times that a task is retried after its worker process or its storage is lost."
    )
    cache_dir: Path = Field(Path("~/.cache/daefr"), description="Folder on each node where shards from S3 are cached.")
    max_cache_bytes: PositiveInt = Field(
        50_000_000_000,
        description="Largest size of each node's cache, in bytes; training waits for downloads if fewer than 32 shards "
        "fit in it.",
    )
    wait_for_lease: bool = Field(
        True,
        description="Whether a step that another process is running in the same run directory is waited for; false "
        "fails, and names that process.",
    )
    unavailable_timeout_s: NonNegativeInt = Field(
        600,
        description="Seconds that a stage waits for missing nodes, and any step for an unreachable MLflow server, "
        "before it fails.",
    )
    stop_timeout_s: PositiveInt = Field(
        25,
        description="Seconds after SIGTERM in which trainings may store a checkpoint before everything is killed. It "
        "must be less than the scheduler's notice: 30 s for a spot machine at Google, 120 s at AWS (see "
        "infra/README.md).",
    )
    checkpoints: Place | None = Field(
        None,
        description="Folder visible to all nodes, or s3://bucket/prefix, for intermediate checkpoints. By default, "
        "they are stored in the run directory. After a stage, its last one is kept, from which a "
        "longer training resumes.",
    )

    @model_validator(mode="after")
    def _address_is_complete(self) -> Self:
        if self.checkpoints is not None and is_address(self.checkpoints):
            split_address(self.checkpoints)
        return self
