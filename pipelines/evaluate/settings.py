"""Settings of evaluation, its benchmarks and its workers."""

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from daefr.settings.base import LocalPath, Place, Settings
from daefr.settings.metrics import MetricName, Protocol
from pipelines.engine.names import VALIDATION

Lq = Literal["mild", "severe"]


class BenchmarkConfig(Settings):
    """The images of one benchmark: files, or the validation samples of a synthesized dataset."""

    lq: Place | None = Field(
        None, description="Folder, tar file or s3://bucket/prefix with the degraded aligned crops."
    )
    gt: Place | None = Field(
        None,
        description="Folder, tar file or s3://bucket/prefix with the ground truth, under the names of the LQ files "
        "except for the extension. By default, metrics that need a ground truth are unavailable.",
    )
    dataset: LocalPath | None = Field(
        None,
        description="Folder with a dataset's manifest, whose validation samples are used instead of `lq` and `gt`.",
    )
    kind: Lq = Field("severe", description="Which LQ images of `dataset` are restored: mild or severe.")

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.dataset is None) == (self.lq is None and self.gt is None):
            raise ValueError("set lq, lq and gt, or dataset")
        return self


class EvaluationConfig(Settings):
    """Which metrics are computed, how, and on which images besides the dataset's validation faces."""

    metrics: tuple[MetricName, ...] = Field(
        get_args(MetricName),
        description="Metrics to compute; a metric whose weights are missing is reported as unavailable.",
    )
    protocol: Protocol = Field(
        "paper",
        description="How metrics are computed: `paper` reproduces the published tables with their quirks; `standard` "
        "feeds every network RGB images in the range that it was trained on.",
    )
    weights: LocalPath | None = Field(
        None,
        description="Folder with the metrics' weights under their published file names. By default, torch's cache and "
        "downloads are used.",
    )
    fid_statistics: LocalPath | None = Field(
        None,
        description="File with the Inception statistics of real faces, as `daefr fid-statistics` writes it. By "
        "default, FFHQ's published statistics are used.",
    )
    benchmarks: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")], BenchmarkConfig] = Field(
        default_factory=dict,
        description="Benchmarks by name, such as celeba-test, lfw-test, wider-test or briar-test.",
    )

    @model_validator(mode="after")
    def _names_are_not_reserved(self) -> Self:
        if VALIDATION in self.benchmarks:
            raise ValueError(f"benchmarks.{VALIDATION} is reserved for the run's validation faces; choose another name")
        return self


class EvaluateCompute(Settings):
    """The resources of an evaluation; they change neither its result nor the step's fingerprint."""

    workers: PositiveInt | None = Field(
        None,
        description="Number of worker processes, each with the models loaded. By default, as many as the cluster has "
        "room for.",
    )
    cpus_per_worker: PositiveFloat = Field(1, description="Number of CPUs reserved per worker.")
    use_gpu: bool = Field(False, description="Whether each worker reserves and computes on one GPU.")
    max_failures: NonNegativeInt = Field(3, description="Number of times that each worker is replaced when it is lost.")
