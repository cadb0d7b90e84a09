"""Settings of the four stages' training, and of the workers that each runs on."""

from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from daefr.settings.base import Settings, StageName
from daefr.settings.training import AssociationTraining, AutoencoderTraining, RestorationTraining, TrainingConfig


class StagesConfig(Settings):
    """How each stage is trained."""

    hq_codebook: AutoencoderTraining
    lq_codebook: AutoencoderTraining
    association: AssociationTraining
    restoration: RestorationTraining

    def of(self, name: StageName) -> TrainingConfig:
        """Return one stage's settings."""
        training: TrainingConfig = getattr(self, name)
        return training


class StageCompute(Settings):
    """What a stage's training runs on. Does not change its result, nor the step's fingerprint."""

    workers: PositiveInt | tuple[PositiveInt, PositiveInt] = Field(
        1,
        description="Processes that train together; each takes its part of the batch. [2, 4] for as many of 2 to 4 as "
        "the cluster has room for, now and as it changes.",
    )
    cpus: PositiveFloat = Field(1, description="CPUs of each worker.")
    gpu: bool = Field(False, description="One GPU for each worker.")
    backend: Literal["nccl", "gloo"] | None = Field(
        None, description="What the workers talk through; by default nccl with GPUs, gloo without."
    )
    placement: Literal["PACK", "SPREAD"] = Field(
        "PACK", description="Whether workers are put on few nodes or on many, as far as there is room."
    )
    loaders: NonNegativeInt = Field(0, description="Processes of each worker that decode images.")
    check_digests: bool = Field(False, description="Read every shard whole when it is opened, to check its digest.")
    max_failures: NonNegativeInt = Field(3, description="How often a stage is resumed after a worker is lost.")
    timeout: PositiveInt = Field(
        1800, description="Seconds that a worker waits for the others before it takes them for hung."
    )
    keep: PositiveInt = Field(
        2, description="Checkpoints kept on the way, beside the one with the lowest validation loss."
    )

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        if self.fewest > self.most:
            raise ValueError(f"workers={list(self._range)} must begin with the smaller number")
        if self.backend == "nccl" and not self.gpu:
            raise ValueError("backend=nccl needs gpu=true")
        return self

    @property
    def _range(self) -> tuple[int, int]:
        return (self.workers, self.workers) if isinstance(self.workers, int) else self.workers

    @property
    def fewest(self) -> int:
        """The smallest number of workers that train."""
        return self._range[0]

    @property
    def most(self) -> int:
        """The largest number of workers that train."""
        return self._range[1]
