"""The configuration of a run: one closed YAML file, with overrides from the command line."""

import difflib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError, model_validator

from daefr.config import Settings, StageName
from daefr.data.images import MAX_PIXELS, MOST_PIXELS
from daefr.errors import UserError
from daefr.faces import FaceFilters
from daefr.faces.alignment import CROP_SIDE
from daefr.metrics.base import MeasureName, Protocol
from daefr.network.config import NetworkConfig
from daefr.outputs import OnConflict
from daefr.stages.config import AssociationTraining, AutoencoderTraining, RestorationTraining, TrainingConfig
from degradations import RECIPES
from pipelines.promotion import settings
from pipelines.promotion.settings import OF_EVALUATION, PromotionConfig, measure_of
from pipelines.storage.s3 import is_address, split_address

PORTRAITS = "portraits"
STAGES: tuple[StageName, ...] = get_args(StageName)


class TrackingConfig(Settings):
    """Where runs, metrics and model versions are kept."""

    uri: str | None = Field(None, description="MLflow's tracking URI; by default a SQLite file in the run's directory.")
    experiment: str = "daefr"
    artifacts: str | None = Field(
        None, description="Place of a new experiment's artifacts; by default beside the file, or the server's own."
    )


class DataConfig(Settings):
    """Which faces, and what is made of them."""

    faces: str | list[str] = Field(
        PORTRAITS,
        description="A folder or s3://bucket/prefix of aligned square crops, of photographs (see `align`), or of tar "
        "files with such; a list of these; or `portraits` for drawn ones.",
    )
    validation_faces: str | list[str] | None = Field(
        None,
        description="Likewise, for validation; may be the same as `faces`. By default a part of `faces` is set apart.",
    )
    align: Literal["facexlib"] | None = Field(
        None, description="`facexlib` where the files are raw photographs, to make crops of every face in them."
    )
    detector: Path | None = Field(
        None, description="RetinaFace weights for `align`; by default the usual download of facexlib's."
    )
    filters: FaceFilters = Field(FaceFilters(), description="Which faces of photographs are taken.")
    max_pixels: Annotated[int, Field(gt=0, le=MOST_PIXELS)] = Field(
        MAX_PIXELS, description="An image that says that it has more is not decoded."
    )
    limit: PositiveInt | None = Field(None, description="Use that many of the faces only, the same ones in every run.")
    portraits: PositiveInt = Field(512, description="How many portraits are drawn, validation included.")
    validation: PositiveInt = Field(16, description="How many of `faces` are set apart without `validation_faces`.")
    mild: str = "daefr-mild"
    severe: str = "daefr-severe"
    variants: PositiveInt = Field(2, description="LQ images of each recipe for every training face.")
    refresh: PositiveInt | None = Field(
        None,
        description="Epochs after which training goes on with new LQ images of every face, which idle CPUs make "
        "meanwhile; by default it keeps the first.",
    )
    store: str | None = Field(
        None, description="s3://bucket/prefix for the shards; by default they are beside their manifest."
    )
    shard_samples: PositiveInt = Field(1000, description="Samples in one shard; one task makes one shard.")
    max_rejected: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1, description="Share of the files that may give no sample."
    )

    @model_validator(mode="after")
    def _addresses_are_complete(self) -> Self:
        for place in [*self.places("faces"), *self.places("validation_faces"), *self.places("store")]:
            if is_address(place):
                split_address(place)
        if self.store is not None and not is_address(self.store):
            raise ValueError("data.store is s3://bucket/prefix; without it, the shards go into the step's folder")
        return self

    def places(self, key: str) -> list[str]:
        """Return the place or places that a key gives, none where it is not set."""
        value: str | list[str] | None = getattr(self, key)
        return [] if value is None else [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _recipes_exist(self) -> Self:
        for name in (self.mild, self.severe):
            if name not in RECIPES:
                raise ValueError(f"there is no recipe {name!r}; there are {', '.join(RECIPES)}")
        return self


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


class RestoreConfig(Settings):
    """How images are restored, by the job and by the service."""

    model: str = Field(
        "models:/daefr-restoration@champion",
        description="models:/NAME@ALIAS, models:/NAME/NUMBER, a checkpoint directory or a released .ckpt file.",
    )
    aligned: bool = Field(False, description="All images are aligned crops, none photographs.")
    only_center_face: bool = Field(False, description="Of a photograph, the face nearest to its middle only.")
    detector: Path | None = Field(None, description="RetinaFace weights; by default the usual download of facexlib's.")
    parser: Path | None = Field(None, description="ParseNet weights, for tighter masks.")
    upscale: Literal[1, 2, 4] = Field(1, description="How many times as large photographs become.")
    upscaler: Path | None = Field(
        None, description="A model file for that, as spandrel reads them; by default pixels are resampled."
    )
    suffix: str = Field(
        "", pattern=r"^[\w.+-]*$", description="Of the job: goes between a result's name and its `.png`."
    )
    side_by_side: bool = Field(False, description="Of the job: write before and after beside each other.")
    max_pixels: Annotated[int, Field(gt=0, le=MOST_PIXELS)] = Field(
        MAX_PIXELS, description="Of the job: an image that says that it has more is not decoded."
    )
    shard_samples: PositiveInt | None = Field(
        None, description="Of the job: write tar shards of that many restored images, instead of a file for each."
    )
    on_conflict: OnConflict = Field(
        "stop",
        description="Of the job: where a file that it did not write has a result's name, `stop` fails that photograph, "
        "and `rename` numbers the result.",
    )
    max_failed: Annotated[float, Field(ge=0, le=1)] = Field(
        0, description="Of the job: share of the images that may fail before its exit code says so."
    )


class ServeConfig(Settings):
    """What the service accepts, and how it follows its model."""

    host: str = Field("127.0.0.1", description="Address to listen at; any but a loopback address needs `token`.")
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    token: Path | None = Field(None, description="A file with the token that requests must show.")
    max_bytes: PositiveInt = Field(20_000_000, description="What an upload may have.")
    max_pixels: Annotated[int, Field(gt=0, le=MOST_PIXELS)] = Field(
        25_000_000, description="What an image may say that it has."
    )
    upload_seconds: PositiveFloat = Field(30, description="How long an upload may take.")
    waiting: PositiveInt = Field(
        256, description="Images that are at hand together, per replica; beyond, the answer is 503."
    )
    waiting_bytes: PositiveInt = Field(500_000_000, description="What these may have together; beyond, likewise.")
    working_pixels: PositiveInt = Field(
        100_000_000, description="Images that are worked at together, per replica; others wait."
    )
    batch: PositiveInt = Field(8, description="Faces, of one or several requests, that are restored together.")
    batch_wait: Annotated[float, Field(ge=0)] = Field(0.02, description="Seconds that a face waits for others.")
    poll_seconds: PositiveFloat = Field(10, description="How often the registry is asked for the alias.")

    @model_validator(mode="after")
    def _one_image_has_room(self) -> Self:
        if self.max_pixels > self.working_pixels:
            raise ValueError(f"max_pixels={self.max_pixels} is more than working_pixels={self.working_pixels}")
        if self.max_bytes > self.waiting_bytes:
            raise ValueError(f"max_bytes={self.max_bytes} is more than waiting_bytes={self.waiting_bytes}")
        return self


Lq = Literal["mild", "severe"]
VALIDATION = settings.VALIDATION
"""The name that the dataset's own validation faces have among the benchmarks."""


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

    measures: tuple[MeasureName, ...] = Field(
        get_args(MeasureName), description="What cannot be had is reported as unavailable."
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


class EvaluateCompute(Settings):
    """What evaluation runs on. Does not change its result, nor the step's fingerprint."""

    actors: PositiveInt | None = Field(
        None, description="Processes, each with the models loaded; by default as many as the cluster has room for."
    )
    cpus: PositiveFloat = Field(1, description="CPUs of each.")
    gpu: bool = Field(False, description="One GPU for each.")
    max_failures: NonNegativeInt = Field(3, description="How often each is replaced when it is lost.")


class RestoreCompute(Settings):
    """What images are restored on, by a pool of workers that grows while there is work for more."""

    min_workers: PositiveInt = 1
    max_workers: PositiveInt | None = Field(None, description="By default as many as the cluster has room for.")
    cpus: PositiveFloat = Field(1, description="CPUs of each worker.")
    gpu: bool = Field(False, description="One GPU for each worker.")
    images: PositiveInt = Field(8, description="Images that a worker is given at a time.")


class ServeCompute(Settings):
    """What the service runs on."""

    replicas: PositiveInt = 1
    cpus: PositiveFloat = Field(1, description="CPUs of each replica.")
    gpu: bool = Field(False, description="One GPU for each replica.")


class ComputeConfig(Settings):
    """What the steps run on."""

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
    checkpoints: str | None = Field(
        None,
        description="Folder that all nodes see, or s3://bucket/prefix, for the checkpoints of trainings on their way; "
        "by default they are in the step's folder.",
    )
    hq_codebook: StageCompute = StageCompute()
    lq_codebook: StageCompute = StageCompute()
    association: StageCompute = StageCompute()
    restoration: StageCompute = StageCompute()
    restore: RestoreCompute = RestoreCompute()
    serve: ServeCompute = ServeCompute()
    evaluate: EvaluateCompute = EvaluateCompute()

    @model_validator(mode="after")
    def _address_is_complete(self) -> Self:
        if self.checkpoints is not None and is_address(self.checkpoints):
            split_address(self.checkpoints)
        return self

    def of(self, name: StageName) -> StageCompute:
        """Return one stage's resources."""
        compute: StageCompute = getattr(self, name)
        return compute


class RunConfig(Settings):
    """One run, from faces to a promoted model."""

    workdir: Path
    seed: NonNegativeInt = 0
    tracking: TrackingConfig = TrackingConfig()
    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig()
    stages: StagesConfig
    restore: RestoreConfig = RestoreConfig()
    serve: ServeConfig = ServeConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    promotion: PromotionConfig = PromotionConfig()
    compute: ComputeConfig = ComputeConfig()

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
    def _gates_have_figures(self) -> Self:
        measured, benchmarks = self.evaluation.measures, (VALIDATION, *self.evaluation.benchmarks)
        for gate in self.promotion.restoration.gates:
            if gate.metric in OF_EVALUATION and measure_of(gate.metric) not in measured:
                raise ValueError(f"a gate of restoration wants {gate.metric}: it is not among evaluation.measures")
            if gate.benchmark not in benchmarks:
                raise ValueError(f"a gate wants the benchmark {gate.benchmark!r}; there are {', '.join(benchmarks)}")
        return self

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        for name in STAGES:
            part, compute = self.stages.of(name).part, self.compute.of(name)
            for workers in range(compute.fewest, compute.most + 1):
                if part % workers:
                    raise ValueError(
                        f"stages.{name}.batch={part} does not divide over {workers} workers: compute.{name}.workers"
                        if part == self.stages.of(name).batch
                        else f"stages.{name}: {part} samples, one of accumulate={self.stages.of(name).accumulate} "
                        f"parts of the batch, do not divide over {workers} workers: compute.{name}.workers"
                    )
        return self


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration and apply overrides such as `stages.restoration.steps=200`.

    Raises `UserError` with one line that names the key and what is valid there.
    """
    try:
        tree = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"there is no configuration {path}; pipelines/configs/ holds some") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} must be a mapping of keys to values, not {type(tree).__name__}")
    tree = json.loads(json.dumps(tree, default=str))  # what YAML aliases share must not share its overrides
    for override in overrides:
        _apply(tree, override)
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{path}: {_explain(error)}") from None


def show_config(config: RunConfig) -> str:
    """Return a whole configuration, defaults included, as YAML that `load_config` reads."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def digest(settings: Any) -> str:
    """Return a digest of JSON-like settings: equal settings, equal digest."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def _apply(tree: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    keys = path.split(".")
    if not separator or not all(keys):
        raise UserError(f"override {override!r} is not of the form stages.restoration.steps=200")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"override {override!r}: {text!r} is not a YAML value") from None
    node = tree
    for key in keys[:-1]:
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            raise UserError(f"override {override!r}: {key} is a value, it has no keys below it")
        node = child
    node[keys[-1]] = value


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        valid = _valid_keys(first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), valid, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"valid are {', '.join(valid)}"
        return f"unknown key {where}: {hint}"
    message = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
    given = "" if first["type"] in ("missing", "value_error") else f" (given: {first['input']!r})"
    return f"{where}: {message}{given}" if where else message


def _valid_keys(location: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = RunConfig
    parts = iter(location)
    for part in parts:
        if isinstance(part, int):  # in a list, whose items' model is known
            continue
        annotation = model.model_fields[part].annotation
        if get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
            next(parts)  # the key, which is free
        elif get_origin(annotation) is tuple:
            annotation = get_args(annotation)[0]
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
