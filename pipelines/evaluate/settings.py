"""Settings of evaluation, its benchmarks, and the workers that it runs on."""

from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from daefr.settings.base import Settings
from daefr.settings.metrics import MetricName, Protocol
from pipelines.engine.names import VALIDATION

Lq = Literal["mild", "severe"]


class BenchmarkConfig(Settings):
    """The images of one benchmark: files, or the validation samples of a dataset that was synthesized."""

    lq: str | None = Field(None, description="Folder, tar file or s3://bucket/prefix of degraded aligned crops.")
    gt: str | None = Field(None, description="Likewise, the ground truth: files of the same names but for the suffix.")
    dataset: Path | None = Field(None, description="Instead: the folder with the manifest of a dataset.")
    kind: Lq = Field("severe", description="Which LQ images of a dataset.")

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.dataset is None) == (self.lq is None and self.gt is None):
            raise ValueError("give lq, or lq and gt, or a dataset")
        return self


class EvaluationConfig(Settings):
    """What is measured, how, and on which images beside the dataset's validation faces."""

    measures: tuple[MetricName, ...] = Field(
        get_args(MetricName), description="What cannot be had is reported as unavailable."
    )
    protocol: Protocol = Field("paper", description="`paper`: as published; `standard`: corrected.")
    weights: Path | None = Field(None, description="Folder of published files under their own names.")
    fid_statistics: Path | None = Field(None, description="Of real images; by default FFHQ's.")
    benchmarks: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")], BenchmarkConfig] = Field(
        default_factory=dict, description="By name, such as celeba-test, lfw-test, wider-test, briar-test."
    )

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        if VALIDATION in self.benchmarks:
            raise ValueError(f"benchmarks.{VALIDATION} is the dataset's own; give it another name")
        return self


class EvaluateCompute(Settings):
    """What evaluation runs on. Does not change its result, nor the step's fingerprint."""

    actors: PositiveInt | None = Field(
        None, description="Processes, each with the models loaded; by default as many as the cluster has room for."
    )
    cpus: PositiveFloat = Field(1, description="CPUs of each.")
    gpu: bool = Field(False, description="One GPU for each.")
    max_failures: NonNegativeInt = Field(3, description="How often each is replaced when it is lost.")
