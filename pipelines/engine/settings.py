"""Settings of what all steps run on: retries, time-outs, and where nodes keep files."""

from pathlib import Path
from typing import Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from daefr.settings.base import Settings
from pipelines.storage.address import is_address, split_address


class EngineCompute(Settings):
    """What all steps run on."""

    tasks: PositiveInt | None = Field(None, description="Synthesis tasks in flight; by default two a CPU.")
    task_retries: NonNegativeInt = Field(
        3, description="How often a task is run again when its worker or its storage is lost."
    )
    cache: Path = Field(Path("~/.cache/daefr"), description="Folder of each node for shards that are on S3.")
    cache_bytes: PositiveInt = Field(
        50_000_000_000, description="What it may hold; 32 shards fit in it, or training will wait for downloads."
    )
    patience: NonNegativeInt = Field(
        600, description="Seconds that a stage waits for nodes, and any step for an MLflow server that is away."
    )
    stop_timeout: PositiveInt = Field(
        25,
        description="Seconds after SIGTERM in which trainings store a checkpoint, before everything is killed. Less "
        "than what the scheduler gives: 30 s for a spot machine at Google, 120 s at AWS (see infra/README.md).",
    )
    checkpoints: str | None = Field(
        None,
        description="Folder that all nodes see, or s3://bucket/prefix, for the checkpoints of trainings on their way; "
        "by default they are in the step's folder.",
    )

    @model_validator(mode="after")
    def _address_is_complete(self) -> Self:
        if self.checkpoints is not None and is_address(self.checkpoints):
            split_address(self.checkpoints)
        return self
