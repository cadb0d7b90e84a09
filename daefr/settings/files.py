"""Settings from a YAML file and from overrides such as `speed.compile=false`."""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from daefr.errors import UserError, one_line
from daefr.settings.base import Settings

S = TypeVar("S", bound=Settings)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping. Raises `UserError` when it is missing or something else."""
    try:
        tree = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"there is no configuration file {path}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as YAML: {one_line(error)}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} must be a mapping of keys to values, not {type(tree).__name__}")
    # YAML aliases share one object, whose override would apply to all of them
    copied: dict[str, Any] = json.loads(json.dumps(tree, default=str))
    return copied


def override(tree: dict[str, Any], assignment: str) -> None:
    """Apply an override, KEY.KEY=VALUE, to a tree of settings. Raises `UserError` when it has another form."""
    path, separator, text = assignment.partition("=")
    keys = path.split(".")
    if not separator or not all(keys):
        raise UserError(f"override {assignment!r} is not of the form KEY=VALUE, such as speed.compile=false")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"override {assignment!r}: {text!r} is not a YAML value") from None
    node = tree
    for key in keys[:-1]:
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            raise UserError(f"override {assignment!r}: {key} is a value and has no keys below it")
        node = child
    node[keys[-1]] = value


def validate(model: type[S], tree: dict[str, Any], source: str) -> S:
    """Return validated settings. Raises `UserError` with one sentence that names the key and what is valid."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{source}: {explain(model, error)}") from None


def explain(model: type[Settings], error: ValidationError) -> str:
    """Return the first problem of invalid settings as one sentence."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        valid = _valid_keys(model, first["loc"][:-1])
        near = _nearest(str(first["loc"][-1]), valid)
        hint = f"did you mean {near}?" if near else f"valid keys are {', '.join(valid)}"
        return f"unknown key {key}: {hint}"
    message = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
    given = "" if first["type"] in ("missing", "value_error") else f" (given: {first['input']!r})"
    return f"{key}: {message}{given}" if key else message


def _nearest(key: str, valid: list[str]) -> str | None:
    """Return the valid key that was probably meant: one that contains the unknown key, or else a similar one."""
    longer = sorted((each for each in valid if key in each), key=len)
    return next(iter(longer or difflib.get_close_matches(key, valid, n=1, cutoff=0.4)), None)


def _valid_keys(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    parts = iter(location)
    for part in parts:
        if isinstance(part, int):  # an index into a list, whose items' model is known already
            continue
        annotation = model.model_fields[part].annotation
        if get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
            next(parts, None)  # the key, which is free
        elif get_origin(annotation) is tuple:
            annotation = get_args(annotation)[0]
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
