"""The dataset of the step `synthesize`, for the steps that read it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from daefr.data.manifest import DatasetManifest, load_manifest
from pipelines.engine.step import StepInput, StepResult
from pipelines.storage.cache import ShardCache

DATASET = "dataset"
"""The folder of the dataset's manifest in the step's folder."""


@dataclass(frozen=True)
class Dataset:
    """A committed dataset, and the cache for shards on S3."""

    result: StepResult
    cache: Path
    cache_bytes: int

    @property
    def folder(self) -> Path:
        """The folder of the dataset's manifest."""
        return self.result.folder / DATASET

    @cached_property
    def manifest(self) -> DatasetManifest:
        """The dataset's manifest."""
        return load_manifest(self.folder)

    @property
    def fetch(self) -> ShardCache | None:
        """Downloads shards to a worker; None if they are stored beside the manifest."""
        store = self.manifest.store
        return None if store is None else ShardCache(store, self.cache, self.cache_bytes)

    def as_input(self) -> StepInput:
        """Return the dataset as an input of another step."""
        return self.result.as_input()
