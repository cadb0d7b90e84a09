"""Settings from a YAML file and from overrides such as `speed.compile=false`, read by the types of their keys.

YAML alone would read `0100` as 64, `1:30` as 90, `2024` as no path, and drop what follows ` #` on the command line.
Here every scalar is the text that was written, and its key says what it means: a path is a path, a number is decimal.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from daefr.errors import UserError, one_line
from daefr.settings.base import Settings

S = TypeVar("S", bound=Settings)

COMMAND_LINE = "command line, "
_TAG = "tag:yaml.org,2002:"
_NULLS = ("", "null", "Null", "NULL")
_MOST_DIGITS = 30


@dataclass(frozen=True)
class Given:
    """A value as it was written, and where: a scalar's text, a list, or a mapping, to which overrides are applied."""

    value: "str | list[Given] | dict[str, Given]"
    origin: str
    quoted: bool = False

    @property
    def keys(self) -> "dict[str, Given]":
        """The values of a mapping by their keys; none of anything else."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def is_null(self) -> bool:
        """Whether nothing is written."""
        return self.value in _NULLS and not self.quoted


def read_yaml(path: Path) -> Given:
    """Read a YAML file that holds a mapping. Raises `UserError` when it is missing or something else."""
    try:
        node = yaml.compose(path.read_bytes(), Loader=yaml.SafeLoader)
        tree = None if node is None else _copy(node, lambda mark: f"{path}, line {mark.line + 1}")
    except FileNotFoundError:
        raise UserError(f"there is no configuration file {path}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as YAML: {one_line(error)}") from None
    if tree is None or not isinstance(tree.value, dict):
        raise UserError(f"{path} must be a mapping of keys to values")
    return Given(tree.value, str(path))


def override(tree: Given, assignment: str, model: type[BaseModel]) -> None:
    """Apply an override, KEY.KEY=VALUE, to a mapping. Raises `UserError` when it has another form.

    The value is taken as it stands, but for a list or a mapping where the key takes one: `[1, 2]`, `{lq: DIR}`.
    """
    path, separator, text = assignment.partition("=")
    *parents, last = path.split(".")
    if not separator or not all([*parents, last]):
        raise UserError(f"override {assignment!r} is not of the form KEY=VALUE, such as speed.compile=false")
    origin = COMMAND_LINE + assignment
    keys, kinds = tree.keys, [model]
    for key in parents:
        if key not in keys or keys[key].is_null:
            keys[key] = Given({}, origin)
        if not isinstance(keys[key].value, dict):
            raise UserError(f"override {assignment!r}: {key} is a value and has no keys below it")
        keys, kinds = keys[key].keys, _below(kinds, key)
    keys[last] = _read_text(text, origin, _below(kinds, last))


def validate(model: type[S], tree: Given) -> S:
    """Return validated settings. Raises `UserError` with one sentence: where it is written, the key, what is valid."""
    try:
        return model.model_validate(_plain(tree, [model]))
    except ValidationError as error:
        origin = _origin(tree, error.errors()[0]["loc"])
        raise UserError(f"{origin}: {explain(model, error)}") from None


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


def _copy(node: yaml.Node, where: Callable[[yaml.Mark], str]) -> Given:
    """Copy a node of YAML: what has an alias must not be overridden in two places."""
    origin = where(node.start_mark)
    if not node.tag.removeprefix(_TAG).isalpha():  # such as !!python/name
        raise UserError(f"{origin}: unknown tag {node.tag}")
    if isinstance(node, yaml.ScalarNode):
        return Given(node.value, origin, quoted=node.style is not None)
    if isinstance(node, yaml.SequenceNode):
        return Given([_copy(each, where) for each in node.value], origin)
    own: dict[str, Given] = {}
    merged: dict[str, Given] = {}
    for key, value in node.value:
        if key.tag == f"{_TAG}merge":  # the first of several mappings has the last word
            for each in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                merged = _copy(each, where).keys | merged
        elif not isinstance(key, yaml.ScalarNode):
            raise UserError(f"{where(key.start_mark)}: a key must be a word")
        elif key.value in own:
            raise UserError(f"{where(key.start_mark)}: {key.value} is given twice, first in {own[key.value].origin}")
        else:
            own[key.value] = _copy(value, where)
    return Given(merged | own, origin)


def _read_text(text: str, origin: str, kinds: Sequence[Any]) -> Given:
    """Read what an override gives: a list or a mapping where the key takes one, else the text."""
    if not (text.startswith(("[", "{")) and any(_is_nested(kind) for kind in kinds)):
        return Given(text, origin)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        # what follows a list would be dropped where it looks like a comment
        if node is not None and node.end_mark.index == len(text.rstrip()):
            return _copy(node, lambda _: origin)
    except (yaml.YAMLError, RecursionError):
        pass
    if str in kinds:  # or a list of them
        return Given(text, origin)
    raise UserError(f"override {origin.removeprefix(COMMAND_LINE)!r}: {text!r} is not a YAML value")


def _plain(given: Given, kinds: Sequence[Any]) -> Any:
    """Return what pydantic validates. It reads texts as most types by itself, numbers as decimal ones."""
    if isinstance(given.value, dict):
        return {key: _plain(each, _below(kinds, key)) for key, each in given.value.items()}
    if isinstance(given.value, list):
        items = [item for kind in kinds for item in _items(kind)]
        return [_plain(each, items) for each in given.value]
    text = given.value
    if given.is_null or (text == "~" and not given.quoted and not {str, Path} & set(kinds)):
        return None
    if int in kinds:
        return _whole_number(text)
    return next((each for kind in kinds for each in _choices(kind) if str(each) == text), text)


def _whole_number(text: str) -> int | str:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text
    is_whole = number.is_finite() and number.adjusted() < _MOST_DIGITS and number == number.to_integral_value()
    return int(number) if is_whole else text


def _kinds(annotation: Any) -> list[Any]:
    """Return the types that an annotation allows."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [kind for each in get_args(annotation) for kind in _kinds(each)]
    return [annotation]


def _below(kinds: Sequence[Any], key: str) -> list[Any]:
    """Return the types that a key of these types allows; none where it is not known."""
    for kind in kinds:
        if get_origin(kind) is dict:
            return _kinds(get_args(kind)[1])
        if _is_model(kind) and key in kind.model_fields:
            return _kinds(kind.model_fields[key].annotation)
    return []


def _items(kind: Any) -> list[Any]:
    """Return the types of the items of a list or a tuple."""
    if get_origin(kind) not in (list, tuple):
        return []
    return [each for item in get_args(kind) if item is not Ellipsis for each in _kinds(item)]


def _choices(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) is Literal else ()


def _is_nested(kind: Any) -> bool:
    return get_origin(kind) in (list, tuple, dict) or _is_model(kind)


def _origin(tree: Given, location: Sequence[int | str]) -> str:
    """Return where a value is written; of several values, the file and all overrides among them."""
    node = tree
    for part in location:
        if isinstance(part, int) and isinstance(node.value, list):
            node = node.value[part]
        elif str(part) in node.keys:
            node = node.keys[str(part)]
        else:
            break  # it is missing, or a type that pydantic tried
    overrides = dict.fromkeys(each for each in _origins(node) if each.startswith(COMMAND_LINE))
    if node.origin.startswith(COMMAND_LINE) or not overrides:
        return node.origin
    return " with ".join([node.origin, ", ".join(each.removeprefix(COMMAND_LINE) for each in overrides)])


def _origins(node: Given) -> Iterator[str]:
    yield node.origin
    below = node.value if isinstance(node.value, list) else node.keys.values()
    for each in below:
        yield from _origins(each)


def _nearest(key: str, valid: list[str]) -> str | None:
    """Return the valid key that was probably meant: one that contains the unknown key, or else a similar one."""
    longer = sorted((each for each in valid if key in each), key=len)
    return next(iter(longer or get_close_matches(key, valid, n=1, cutoff=0.4)), None)


def _valid_keys(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    kinds: list[Any] = [model]
    for part in location:
        kinds = [each for kind in kinds for each in _items(kind)] if isinstance(part, int) else _below(kinds, part)
    return [name for kind in kinds if _is_model(kind) for name in kind.model_fields]


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
