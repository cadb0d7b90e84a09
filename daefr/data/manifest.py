"""What a dataset holds: its shards with their digests, and every source that was rejected.

The manifest has the same size for any dataset. What there can be millions of is listed in files beside it, a JSON
object a line, whose digests it has.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError

from daefr.errors import UserError
from daefr.faces.rejection import Rejection, most_frequent_first
from daefr.files import atomic_path, write_atomically
from daefr.settings.base import Settings

NAME = "manifest.json"
REJECTED = "rejected.jsonl"
Split = Literal["train", "validation"]
ListedEntry = TypeVar("ListedEntry", bound=Settings)


class Shard(Settings):
    """One tar file: its name relative to the manifest, its size, its digest and its number of samples."""

    name: str
    bytes: int
    sha256: str
    samples: int


Fetch = Callable[[Shard], AbstractContextManager[Path]]
"""Gives the local path of a shard while a block runs: how shards are read that are not beside their manifest."""


class Listing(Settings):
    """A file of entries beside the manifest: its name, its digest and its number of lines."""

    file: str
    sha256: str
    entries: int


class ShardListing(Listing):
    """A file that lists shards, with what they hold together."""

    samples: int
    bytes: int


class DatasetManifest(Settings):
    """A dataset: square HQ crops of `resolution` pixels with `variants` LQ images of each kind, cut into shards."""

    format: Literal[2] = 2
    resolution: int
    recipes: dict[str, str]
    variants: dict[str, int]
    seed: int
    train: ShardListing
    validation: ShardListing
    rejected: Listing
    reasons: dict[str, int]
    """How many were rejected for each kind of reason."""
    store: str | None = None
    """Where the shards are, None where they are beside the manifest."""

    def listing(self, split: Split) -> ShardListing:
        """Return what lists the shards of one split."""
        return self.train if split == "train" else self.validation

    def samples(self, split: Split) -> int:
        """Return the number of samples of one split."""
        return self.listing(split).samples

    def digest(self, split: Split) -> str:
        """Return a digest of the split's content: equal digests mean equal samples, byte for byte."""
        return self.listing(split).sha256


def write_dataset_manifest(
    folder: Path,
    *,
    resolution: int,
    recipes: dict[str, str],
    variants: dict[str, int],
    seed: int,
    train: Iterable[Shard],
    validation: Iterable[Shard],
    rejected: Iterable[Rejection] = (),
    store: str | None = None,
) -> DatasetManifest:
    """Write the files that list shards and rejections, which are held one at a time, and last the manifest itself."""
    reasons: Counter[str] = Counter()
    manifest = DatasetManifest(
        resolution=resolution,
        recipes=recipes,
        variants=variants,
        seed=seed,
        train=list_shards(folder / "train.jsonl", train),
        validation=list_shards(folder / "validation.jsonl", validation),
        rejected=_write_listing(folder / REJECTED, _counted(rejected, reasons)),
        reasons=most_frequent_first(reasons),
        store=store,
    )
    write_atomically(folder / NAME, manifest.model_dump_json(indent=2) + "\n")
    return manifest


def list_shards(path: Path, shards: Iterable[Shard]) -> ShardListing:
    """Write a file that lists shards."""
    totals = Counter(samples=0, bytes=0)

    def added() -> Iterator[Shard]:
        for shard in shards:
            totals.update(samples=shard.samples, bytes=shard.bytes)
            yield shard

    listing = _write_listing(path, added())
    return ShardListing(**listing.model_dump(), **totals)


def load_manifest(dataset: Path) -> DatasetManifest:
    """Read the manifest of the dataset in folder `dataset`; raises `UserError` when there is none or it is damaged."""
    path = dataset / NAME
    try:
        return DatasetManifest.model_validate(json.loads(path.read_text()))
    except FileNotFoundError:
        raise UserError(
            f"{dataset} is not a dataset: it has no {NAME}; python -m pipelines synthesize makes one"
        ) from None
    except (ValueError, ValidationError) as error:
        raise UserError(f"{path} is damaged: {str(error).splitlines()[0]}") from None


def read_shards(dataset: Path, listing: ShardListing) -> Iterator[Shard]:
    """Yield the shards that a file beside the manifest lists; raises `UserError` when it is not what it was."""
    return _read_listing(dataset, listing, Shard)


def read_rejected(dataset: Path, manifest: DatasetManifest) -> Iterator[Rejection]:
    """Yield what was rejected. Raises likewise."""
    return _read_listing(dataset, manifest.rejected, Rejection)


def _counted(rejected: Iterable[Rejection], reasons: Counter[str]) -> Iterator[Rejection]:
    for rejection in rejected:
        reasons[rejection.kind] += 1
        yield rejection


def _write_listing(path: Path, entries: Iterable[Settings]) -> Listing:
    digest, lines = hashlib.sha256(), 0
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        for entry in entries:
            line = (entry.model_dump_json() + "\n").encode()
            stream.write(line)
            digest.update(line)
            lines += 1
    return Listing(file=path.name, sha256=digest.hexdigest(), entries=lines)


def _read_listing(dataset: Path, listing: Listing, kind: type[ListedEntry]) -> Iterator[ListedEntry]:
    path = dataset / listing.file
    try:
        with path.open("rb") as stream:
            whole = hashlib.file_digest(stream, "sha256").hexdigest() == listing.sha256
            stream.seek(0)
            if whole:
                yield from (kind.model_validate_json(line) for line in stream)
                return
    except FileNotFoundError:
        raise UserError(f"{path} is missing; the manifest beside it names it") from None
    raise UserError(f"{path} is damaged: it does not have the digest of the manifest")
