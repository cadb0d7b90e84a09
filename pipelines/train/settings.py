"""Settings of the four stages' training, and of the workers that each runs on."""

from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from daefr.settings.base import Settings, StageName
from daefr.settings.training import AssociationTraining, AutoencoderTraining, RestorationTraining, TrainingConfig


class StagesConfig(Settings):
    """How each stage is trained."""

    hq_codebook: AutoencoderTraining = Field(
        description="Training of stage 1a, the autoencoder and codebook of HQ faces."
    )
    lq_codebook: AutoencoderTraining = Field(
        description="Training of stage 1b, the autoencoder and codebook of LQ faces."
    )
    association: AssociationTraining = Field(
        description="Training of stage 2, which associates the features of both encoders."
    )
    restoration: RestorationTraining = Field(description="Training of stage 3, which predicts HQ codes from LQ faces.")

    def of(self, name: StageName) -> TrainingConfig:
        """Return one stage's settings."""
        training: TrainingConfig = getattr(self, name)
        return training


class StageCompute(Settings):
    """The resources of one stage's training; they change neither its result nor the step's fingerprint."""

    workers: PositiveInt | tuple[PositiveInt, PositiveInt] = Field(
        1,
        description="Number of worker processes that train together; each computes an equal share of the global batch. "
        "A range such as [2, 4] trains with as many as the cluster has room for, and adapts when that changes.",
    )
    cpus_per_worker: PositiveFloat = Field(1, description="Number of CPUs reserved per worker.")
    use_gpu: bool = Field(False, description="Whether each worker reserves and trains on one GPU.")
    backend: Literal["nccl", "gloo"] | None = Field(
        None, description="torch.distributed backend. By default, nccl with GPUs and gloo without."
    )
    placement_strategy: Literal["PACK", "SPREAD"] = Field(
        "PACK",
        description="Ray placement strategy: PACK workers onto few nodes, or SPREAD them over many, if possible.",
    )
    dataloader_workers: NonNegativeInt = Field(
        0, description="Number of processes per worker that decode images; 0 decodes in the training process."
    )
    verify_digests: bool = Field(
        False, description="Whether every shard is read completely and its SHA-256 digest checked when it is opened."
    )
    max_failures: NonNegativeInt = Field(
        3, description="Number of times that the stage resumes from its last checkpoint after losing a worker."
    )
    collective_timeout_s: PositiveInt = Field(
        1800, description="Seconds that a worker waits for the others in a collective operation before it fails."
    )
    keep_last: PositiveInt = Field(
        2, description="Number of intermediate checkpoints to keep, besides the one with the lowest validation loss."
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.min_workers > self.max_workers:
            raise ValueError(f"workers={list(self._worker_range)} must start with the smaller number")
        if self.backend == "nccl" and not self.use_gpu:
            raise ValueError("backend=nccl requires use_gpu=true")
        return self

    @property
    def _worker_range(self) -> tuple[int, int]:
        return (self.workers, self.workers) if isinstance(self.workers, int) else self.workers

    @property
    def min_workers(self) -> int:
        """The smallest number of workers."""
        return self._worker_range[0]

    @property
    def max_workers(self) -> int:
        """The largest number of workers."""
        return self._worker_range[1]
