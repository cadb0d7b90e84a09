"""A configuration as YAML with each key's description, as `--print-config` prints it."""

import textwrap
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel

WIDTH = 100
"""Width in columns of the comments."""
LONG = 1_000_000
"""No value is wrapped."""


def show_config(config: BaseModel) -> str:
    """Return all settings, defaults included, as YAML with each key's description in a comment above it."""
    return "\n".join(_lines(config, config.model_dump(mode="json"))) + "\n"


def _lines(settings: BaseModel, dumped: dict[str, Any]) -> Iterator[str]:
    for name, field in type(settings).model_fields.items():
        yield from textwrap.wrap(
            field.description or "", WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
        )
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            yield f"{name}:"
            yield from _indented(_lines(value, dumped[name]))
        elif isinstance(value, dict) and value:
            yield f"{name}:"
            for key, each in value.items():
                yield f"  {yaml.safe_dump(key).splitlines()[0]}:"
                yield from _indented(_indented(_lines(each, dumped[name][key])))
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            yield f"{name}:"
            for each, tree in zip(value, dumped[name], strict=True):
                yield "  -"
                yield from _indented(_indented(_lines(each, tree)))
        elif isinstance(value, tuple | list):
            yield f"{name}: {_one_line(dumped[name])}"
        else:
            yield from yaml.safe_dump({name: dumped[name]}, width=LONG).splitlines()


def _one_line(values: list[Any]) -> str:
    return yaml.safe_dump(values, default_flow_style=True, width=LONG).strip()


def _indented(lines: Iterator[str]) -> Iterator[str]:
    return (f"  {line}" for line in lines)
