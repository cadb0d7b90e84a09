"""The configuration of a run: one closed YAML file, with overrides from the command line.

Each step's settings are in its folder. They are put together here, where what spans several steps is checked.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import Field, NonNegativeInt, model_validator

from daefr.settings.base import STAGES, LocalPath, Settings, StageName
from daefr.settings.faces import CROP_SIDE
from daefr.settings.files import override, read_yaml, validate
from daefr.settings.network import NetworkConfig
from pipelines.engine.names import VALIDATION
from pipelines.engine.settings import EngineCompute
from pipelines.evaluate.settings import EvaluateCompute, EvaluationConfig
from pipelines.promote.settings import EVALUATION_METRICS, PromotionConfig, base_metric
from pipelines.restore.settings import RestoreCompute, RestoreConfig
from pipelines.serve.settings import ServeCompute, ServeConfig
from pipelines.synthesize.settings import DataConfig
from pipelines.tracking.settings import TrackingConfig
from pipelines.train.settings import StageCompute, StagesConfig


class ComputeConfig(EngineCompute):
    """What the steps run on."""

    hq_codebook: StageCompute = Field(StageCompute(), description="Resources of the HQ codebook's training.")
    lq_codebook: StageCompute = Field(StageCompute(), description="Resources of the LQ codebook's training.")
    association: StageCompute = Field(StageCompute(), description="Resources of the association's training.")
    restoration: StageCompute = Field(StageCompute(), description="Resources of the restoration's training.")
    restore: RestoreCompute = Field(RestoreCompute(), description="Resources of the batch job that restores images.")
    serve: ServeCompute = Field(ServeCompute(), description="Resources of the service.")
    evaluate: EvaluateCompute = Field(EvaluateCompute(), description="Resources of each evaluation.")

    def of(self, name: StageName) -> StageCompute:
        """Return one stage's resources."""
        compute: StageCompute = getattr(self, name)
        return compute


class RunConfig(Settings):
    """One run, from faces to a promoted model."""

    workdir: LocalPath = Field(
        description="The run's folder, which all nodes of a cluster must see; created if needed."
    )
    seed: NonNegativeInt = Field(
        0,
        description="Seed of every random choice: the degradations, the initial weights and the order of the samples.",
    )
    tracking: TrackingConfig = Field(TrackingConfig(), description="Where MLflow keeps runs, metrics and models.")
    data: DataConfig = Field(
        DataConfig(), description="Which faces are used, and what training pairs are made of them."
    )
    network: NetworkConfig = Field(
        NetworkConfig(), description="Sizes of the networks. The defaults are those of the released 512x512 model."
    )
    stages: StagesConfig = Field(description="How each of the four stages is trained.")
    restore: RestoreConfig = Field(
        RestoreConfig(), description="How images are restored, by the batch job and by the service."
    )
    serve: ServeConfig = Field(ServeConfig(), description="What the service accepts, and how it follows its model.")
    evaluation: EvaluationConfig = Field(
        EvaluationConfig(), description="Which metrics are computed, and on which benchmarks."
    )
    promotion: PromotionConfig = Field(
        PromotionConfig(), description="What a candidate must satisfy to become the champion."
    )
    compute: ComputeConfig = Field(
        ComputeConfig(), description="The resources of each step; they do not change any result."
    )

    @property
    def resolution(self) -> int:
        """Side of all images, in pixels."""
        return self.network.autoencoder.resolution

    @model_validator(mode="after")
    def _crops_are_large_enough(self) -> Self:
        if self.data.align and self.resolution > CROP_SIDE:
            raise ValueError(f"data.align makes crops of {CROP_SIDE} pixels, and the network takes {self.resolution}")
        return self

    @model_validator(mode="after")
    def _gates_have_metrics(self) -> Self:
        metrics, benchmarks = self.evaluation.metrics, (VALIDATION, *self.evaluation.benchmarks)
        for gate in self.promotion.restoration.gates:
            if gate.metric in EVALUATION_METRICS and base_metric(gate.metric) not in metrics:
                raise ValueError(f"promotion.restoration.gates: {gate.metric} is not among evaluation.metrics")
            if gate.benchmark not in benchmarks:
                raise ValueError(
                    f"promotion.restoration.gates: unknown benchmark {gate.benchmark!r}; "
                    f"choose one of {', '.join(benchmarks)}"
                )
        return self

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        for name in STAGES:
            training, compute = self.stages.of(name), self.compute.of(name)
            for workers in range(compute.min_workers, compute.max_workers + 1):
                if training.micro_batch_size % workers:
                    accumulated = training.gradient_accumulation_steps > 1
                    divided = " / gradient_accumulation_steps" if accumulated else ""
                    raise ValueError(
                        f"stages.{name}.global_batch_size{divided}={training.micro_batch_size} is not a multiple of "
                        f"{workers}, a number of workers that compute.{name}.workers allows"
                    )
        return self


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration and apply overrides such as `stages.restoration.steps=200`.

    Raises `UserError` with one line that names the key, where its value comes from, and what is valid there.
    """
    tree = read_yaml(path)
    for assignment in overrides:
        override(tree, assignment, RunConfig)
    return validate(RunConfig, tree)
