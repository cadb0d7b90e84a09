"""Generations of LQ variants: training goes on with new ones every some epochs, which are made meanwhile.

Generation 0 is in the dataset's own shards. Of every other, each shard has a companion with the same samples' LQ images
alone, and the file that lists the companions comes last: a generation is there, whole, when that is. Which generation a
step sees follows from its epoch, so a training that is ahead of their making waits.
"""

import time
from pathlib import Path

from daefr.data.manifest import Shard, ShardListing, read_shards
from daefr.errors import UserError

SECONDS_BETWEEN_LOOKS = 0.5


class Generation(ShardListing):
    """What lists the shards of one generation, in the order of the dataset's."""

    number: int
    dataset: str
    """The digest of the split that the variants are of."""


def companion(shard: Shard, generation: int) -> str:
    """Return the name of what holds the LQ images of a shard's samples in a later generation."""
    return f"generation-{generation:04d}-{shard.name}"


def listing_of(dataset: Path, generation: int) -> Path:
    """Return the file that lists a generation's shards."""
    return dataset / f"generation-{generation:04d}.jsonl"


def commit_of(dataset: Path, generation: int) -> Path:
    """Return the file that says that a generation is there."""
    return dataset / f"generation-{generation:04d}.json"


def failure_of(dataset: Path) -> Path:
    """Return the file that says, in one line, why no further generation will come."""
    return dataset / "generation-failed.txt"


def find_generation(dataset: Path, number: int) -> Generation | None:
    """Return what lists a generation, None where it is not there."""
    try:
        return Generation.model_validate_json(commit_of(dataset, number).read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        raise UserError(
            f"{commit_of(dataset, number)} is damaged: delete it, and the generation is made again"
        ) from None


def await_shards(dataset: Path, number: int) -> list[Shard]:
    """Return a generation's shards, after waiting until they are all made. Raises `UserError` when they cannot be."""
    while (found := find_generation(dataset, number)) is None:
        if (failure := failure_of(dataset)).exists():
            raise UserError(f"generation {number} of the LQ images could not be made: {failure.read_text()}")
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return list(read_shards(dataset, found))
