"""The configuration of a run: one closed YAML file, with overrides from the command line."""

import difflib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError, model_validator

from daefr.config import Settings, StageName
from daefr.data.images import MAX_PIXELS, MOST_PIXELS
from daefr.errors import UserError
from daefr.faces import FaceFilters
from daefr.faces.alignment import CROP_SIDE
from daefr.network.config import NetworkConfig
from daefr.stages.config import AutoencoderTraining, RestorationTraining, TrainingConfig
from degradations import RECIPES
from pipelines.storage.s3 import is_address, split_address

PORTRAITS = "portraits"
STAGES: tuple[StageName, ...] = get_args(StageName)


class TrackingConfig(Settings):
    """Where runs, metrics and model versions are kept."""

    uri: str | None = Field(None, description="MLflow's tracking URI; by default a SQLite file in the run's directory.")
    experiment: str = "daefr"
    artifacts: str | None = Field(
        None, description="Place of a new experiment's artifacts; by default beside the file."
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
    association: AutoencoderTraining
    restoration: RestorationTraining

    def of(self, name: StageName) -> TrainingConfig:
        """Return one stage's settings."""
        training: TrainingConfig = getattr(self, name)
        return training


class StageCompute(Settings):
    """What a stage's training runs on. Does not change its result, nor the step's fingerprint."""

    workers: PositiveInt = Field(1, description="Processes that train together; each takes its part of the batch.")
    cpus: PositiveFloat = Field(1, description="CPUs of each worker.")
    gpu: bool = Field(False, description="One GPU for each worker.")
    loaders: NonNegativeInt = Field(0, description="Processes of each worker that decode images.")
    check_digests: bool = Field(False, description="Read every shard whole when it is opened, to check its digest.")
    max_failures: NonNegativeInt = Field(3, description="How often a stage is resumed after a worker is lost.")


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
    hq_codebook: StageCompute = StageCompute()
    lq_codebook: StageCompute = StageCompute()
    association: StageCompute = StageCompute()
    restoration: StageCompute = StageCompute()

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
    def _batches_divide(self) -> Self:
        for name in STAGES:
            batch, workers = self.stages.of(name).batch, self.compute.of(name).workers
            if batch % workers:
                raise ValueError(f"stages.{name}.batch={batch} does not divide over compute.{name}.workers={workers}")
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
    for part in location:
        annotation = model.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
