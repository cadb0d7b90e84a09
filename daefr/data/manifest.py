"""The list of what a dataset holds: its shards with their digests, and every source that was rejected."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from daefr.config import Settings
from daefr.errors import UserError

NAME = "manifest.json"
Split = Literal["train", "validation"]


class Shard(Settings):
    """One tar file: its name relative to the manifest, its size, its digest and its number of samples."""

    name: str
    bytes: int
    sha256: str
    samples: int


class Rejection(Settings):
    """A source, or a face of a photograph, that did not become a sample, and why."""

    source: str
    reason: str

    @property
    def kind(self) -> str:
        """What it is counted under: the reason without the figures, which come after a colon."""
        return self.reason.partition(":")[0]


class DatasetManifest(Settings):
    """A dataset: square HQ crops of `resolution` pixels with `variants` LQ images of each kind, cut into shards."""

    format: Literal[1] = 1
    resolution: int
    recipes: dict[str, str]
    variants: dict[str, int]
    seed: int
    train: list[Shard]
    validation: list[Shard]
    rejected: list[Rejection]
    reasons: dict[str, int] = Field(default_factory=dict)
    """How many were rejected for each kind of reason."""
    store: str | None = None
    """Where the shards are, None where they are beside the manifest."""

    def shards(self, split: Split) -> list[Shard]:
        """Return the shards of one split, in order."""
        return self.train if split == "train" else self.validation

    def samples(self, split: Split) -> int:
        """Return the number of samples of one split."""
        return sum(shard.samples for shard in self.shards(split))

    def digest(self, split: Split) -> str:
        """Return a digest of the split's content: equal digests mean equal samples, byte for byte."""
        return hashlib.sha256("".join(shard.sha256 for shard in self.shards(split)).encode()).hexdigest()


def count_reasons(rejected: Iterable[Rejection]) -> dict[str, int]:
    """Return how many were rejected for each kind of reason, the most frequent first."""
    counts = Counter(rejection.kind for rejection in rejected)
    return dict(sorted(counts.items(), key=lambda count: (-count[1], count[0])))


def load_manifest(dataset: Path) -> DatasetManifest:
    """Read the manifest of the dataset in folder `dataset`; raises `UserError` when there is none or it is damaged."""
    path = dataset / NAME
    try:
        return DatasetManifest.model_validate(json.loads(path.read_text()))
    except FileNotFoundError:
        raise UserError(f"{dataset} is not a dataset: it has no {NAME}; pipelines/synthesize.py makes one") from None
    except (ValueError, ValidationError) as error:
        raise UserError(f"{path} is damaged: {str(error).splitlines()[0]}") from None
