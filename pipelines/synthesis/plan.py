"""Which tasks make a dataset, and which of them are finished."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from daefr.data.manifest import Split
from daefr.errors import UserError
from pipelines.config import RunConfig
from pipelines.storage import s3
from pipelines.synthesis.photographs import Photographs
from pipelines.synthesis.shards import Receipt, ShardTask
from pipelines.synthesis.sources import Sources, SourcesDigest


class Plan:
    """The tasks of a dataset, planned while they are iterated over: what is planned and done takes no memory."""

    def __init__(self, config: RunConfig, folder: Path, sources: Mapping[Split, Sources]) -> None:
        """Plan a dataset for `folder`, which is in a step's folder."""
        self.folder = folder
        store = config.data.store
        self.store = None if store is None else f"{store.rstrip('/')}/{folder.parent.name}"
        self._config, self._sources = config, sources
        self._digests: dict[Split, SourcesDigest] = {"validation": SourcesDigest(), "train": SourcesDigest()}
        self._shards: dict[Split, int] = {"validation": 0, "train": 0}

    def __iter__(self) -> Iterator[ShardTask]:
        """Yield the tasks, in the order of the sources."""
        data = self._config.data
        photographs = Photographs(data.detector and data.detector.absolute(), data.filters) if data.align else None
        for split in self._shards:
            sources = iter(self._sources[split])
            while part := tuple(islice(sources, data.shard_samples)):
                number = self._shards[split]
                self._shards[split] += 1
                for source in part:
                    self._digests[split].add(source)
                yield ShardTask(
                    path=self._path(split, number),
                    sources=part,
                    first=number * data.shard_samples,
                    resolution=self._config.resolution,
                    recipes={"mild": data.mild, "severe": data.severe},
                    # validation images are degraded once and for all
                    variants=data.variants if split == "train" else 1,
                    seed=self._config.seed,
                    max_pixels=data.max_pixels,
                    photographs=photographs,
                    store=self.store,
                )

    @property
    def total(self) -> int | None:
        """The number of sources, None where there are more than were listed yet."""
        if any(part.listing for part in self._sources.values()):
            return None
        return sum(len(part.head) for part in self._sources.values())

    @property
    def planned(self) -> int:
        """The number of sources that were planned until now."""
        return sum(added.count for added in self._digests.values())

    @property
    def digests(self) -> dict[Split, str]:
        """The digests of the sources that were planned until now."""
        return {split: str(added) for split, added in self._digests.items()}

    def receipts(self, split: Split) -> Iterator[Receipt]:
        """Read what the tasks of a split left, in their order."""
        for number in range(self._shards[split]):
            path = self._path(split, number).with_suffix(".json")
            yield Receipt.model_validate_json(path.read_text())

    def _path(self, split: Split, number: int) -> Path:
        return self.folder / f"{split}-{number:06d}.tar"


def finished(task: ShardTask, size_of: Callable[[str], int | None]) -> Receipt | None:
    """Return what a task recorded when it was finished with the same sources, None if it was not or its shard is gone.

    `size_of` gives the size of a shard by its name, None where there is none.
    """
    receipt = recorded(task)
    if receipt is None or receipt.sources != SourcesDigest.of(task.sources):
        return None
    if receipt.shard is None:
        return receipt
    return receipt if size_of(receipt.shard.name) == receipt.shard.bytes else None


def recorded(task: ShardTask) -> Receipt | None:
    """Return what a task recorded when it was finished, maybe with other sources."""
    try:
        return Receipt.model_validate_json(task.receipt.read_text())
    except (FileNotFoundError, ValueError):
        return None


def sizes_in(folder: Path) -> Callable[[str], int | None]:
    """Return what gives the sizes of files in a folder by their names."""

    def size_of(name: str) -> int | None:
        try:
            return (folder / name).stat().st_size
        except FileNotFoundError:
            return None

    return size_of


def stored_sizes(store: str) -> dict[str, int]:
    """Return the names and sizes of what is in the store of a dataset."""
    with usable(store):
        return {found.address.rpartition("/")[2]: found.size for found in s3.list_objects(f"{store}/")}


@contextmanager
def usable(store: str) -> Iterator[None]:
    """Raise `UserError` where the block finds the store missing or forbidden."""
    try:
        yield
    except (FileNotFoundError, PermissionError) as error:
        raise UserError(f"data.store: {store} cannot be used: {error.strerror}") from None
