"""The configuration of a run: one closed YAML file, with overrides from the command line.

Each step's settings are in its folder. They are put together here, where what spans several steps is checked.
"""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, NonNegativeInt, ValidationError, model_validator

from daefr.errors import UserError, one_line
from daefr.settings.base import STAGES, Settings, StageName
from daefr.settings.faces import CROP_SIDE
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

    workdir: Path = Field(description="The run's folder, which all nodes of a cluster must see; created if needed.")
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

    Raises `UserError` with one line that names the key and what is valid there.
    """
    try:
        tree = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"there is no configuration {path}; pipelines/configs/ holds some") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as YAML: {one_line(error)}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} must be a mapping of keys to values, not {type(tree).__name__}")
    tree = json.loads(json.dumps(tree, default=str))  # what YAML aliases share must not share its overrides
    for override in overrides:
        _apply(tree, override)
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{path}: {_explain(error)}") from None


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
        near = _nearest(str(first["loc"][-1]), valid)
        hint = f"did you mean {near}?" if near else f"valid are {', '.join(valid)}"
        return f"unknown key {where}: {hint}"
    message = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
    given = "" if first["type"] in ("missing", "value_error") else f" (given: {first['input']!r})"
    return f"{where}: {message}{given}" if where else message


def _nearest(key: str, valid: list[str]) -> str | None:
    """Return the valid key that someone most likely meant: one with the unknown key in it, or else a similar one."""
    longer = sorted((each for each in valid if key in each), key=len)
    return next(iter(longer or difflib.get_close_matches(key, valid, n=1, cutoff=0.4)), None)


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
