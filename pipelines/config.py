"""The configuration of a run: one closed YAML file, with overrides from the command line.

Each step's settings are in its folder. They are put together here, where what spans several steps is checked.
"""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, get_args, get_origin

import yaml
from pydantic import BaseModel, NonNegativeInt, ValidationError, model_validator

from daefr.errors import UserError, one_line
from daefr.settings.base import STAGES, Settings, StageName
from daefr.settings.faces import CROP_SIDE
from daefr.settings.network import NetworkConfig
from pipelines.engine.names import VALIDATION
from pipelines.engine.settings import EngineCompute
from pipelines.evaluate.settings import EvaluateCompute, EvaluationConfig
from pipelines.promote.settings import OF_EVALUATION, PromotionConfig, measure_of
from pipelines.restore.settings import RestoreCompute, RestoreConfig
from pipelines.serve.settings import ServeCompute, ServeConfig
from pipelines.synthesize.settings import DataConfig
from pipelines.tracking.settings import TrackingConfig
from pipelines.train.settings import StageCompute, StagesConfig


class ComputeConfig(EngineCompute):
    """What the steps run on."""

    hq_codebook: StageCompute = StageCompute()
    lq_codebook: StageCompute = StageCompute()
    association: StageCompute = StageCompute()
    restoration: StageCompute = StageCompute()
    restore: RestoreCompute = RestoreCompute()
    serve: ServeCompute = ServeCompute()
    evaluate: EvaluateCompute = EvaluateCompute()

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


def show_config(config: RunConfig) -> str:
    """Return a whole configuration, defaults included, as YAML that `load_config` reads."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


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
