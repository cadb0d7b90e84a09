"""The metrics that the paper publishes."""

from functools import cache
from pathlib import Path
from typing import Self

import yaml
from pydantic import model_validator

from daefr.settings.base import Settings


class PublishedTable(Settings):
    """The rows of one benchmark: a label, and a value for each metric."""

    metrics: list[str]
    rows: dict[str, list[float]]

    @model_validator(mode="after")
    def _rows_are_complete(self) -> Self:
        for label, values in self.rows.items():
            if len(values) != len(self.metrics):
                raise ValueError(f"{label} has {len(values)} values for {len(self.metrics)} metrics")
        return self


class PublishedTables(Settings):
    """The content of `published.yaml`."""

    source: str
    benchmarks: dict[str, PublishedTable]


@cache
def published() -> PublishedTables:
    """Read the published tables."""
    content = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text())
    return PublishedTables.model_validate(content)
