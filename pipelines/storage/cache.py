"""A bounded cache of shards on this machine's disk, shared by all of its processes that train."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from daefr.data.manifest import Shard
from daefr.errors import UserError
from daefr.files import atomic_path, expand_home, file_digest
from pipelines.storage import s3

_DIGEST = re.compile(r"[0-9a-f]{64}")
_SUFFIXES = (".tar", ".tmp")


@dataclass(frozen=True)
class ShardCache:
    """Shards of the store at address `store` in `folder`: at most `limit` bytes, of which the least recently used go.

    Called with a shard, it gives its local path for as long as a `with` block runs. What was opened there can be read
    on afterwards, even when its name is gone. Holds nothing open itself, so that it travels to workers.
    """

    store: str
    folder: Path
    limit: int

    @contextmanager
    def __call__(self, shard: Shard) -> Iterator[Path]:
        """Give the path of a shard, after downloading it whole where it is not here.

        Raises `UserError` when it is missing or damaged in the store or does not fit, and `StorageError` when the
        store does not answer.
        """
        place = expand_home(self.folder) / shard.sha256
        path = place / shard.name
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(_lock_of(place)):
            if path.exists():
                os.utime(place)
            else:
                self._download(shard, path)
            yield path

    def _download(self, shard: Shard, path: Path) -> None:
        address = f"{self.store}/{shard.name}"
        _empty(path.parent)  # of what a killed process left
        try:
            with atomic_path(path) as temporary:
                with self._reserve(temporary, shard.bytes) as stream:
                    s3.download(address, stream)
                if file_digest(temporary) != shard.sha256:
                    raise UserError(f"shard {address} is damaged: it does not have the digest of the manifest")
        except FileNotFoundError:
            raise UserError(f"shard {address} is missing; the dataset's manifest lists it") from None

    def _reserve(self, path: Path, size: int) -> IO[bytes]:
        """Open a file that has all of its room on the disk already."""
        if size > self.limit:
            raise UserError(f"compute.max_cache_bytes={self.limit} is less than the {size} bytes of one shard")
        with FileLock(path.parent.with_name("room.lock")):
            while _total(path.parent.parent) + size > self.limit:
                _evict_one(path.parent.parent)
            path.parent.mkdir(exist_ok=True)
            stream = path.open("wb")
            try:
                os.posix_fallocate(stream.fileno(), 0, size)
            except OSError as error:
                stream.close()
                raise UserError(
                    f"no room for {size} bytes in compute.cache_dir={self.folder} ({error.strerror}): "
                    "give another folder, or a lower compute.max_cache_bytes"
                ) from None
        return stream


def _places(folder: Path) -> list[Path]:
    """Return the folders of shards that hold any, and of nothing else that lies in the cache's folder."""
    return [path for path in folder.iterdir() if _DIGEST.fullmatch(path.name) and _held(path)]


def _held(place: Path) -> list[Path]:
    """Return the files of a shard's folder that are of the cache."""
    return [path for path in place.glob("*") if path.suffix in _SUFFIXES and path.is_file()]


def _empty(place: Path) -> None:
    """Delete a shard, or what there is of it."""
    for path in _held(place):
        path.unlink(missing_ok=True)
    with suppress(OSError):  # it holds something else
        place.rmdir()


def _total(folder: Path) -> int:
    return sum(_size(file) for place in _places(folder) for file in _held(place))


def _evict_one(folder: Path) -> None:
    """Delete the shard that was used least recently; waits a moment where all are being opened right now."""
    for place in sorted(_places(folder), key=lambda path: path.stat().st_mtime_ns):
        try:
            with FileLock(_lock_of(place), blocking=False):
                _empty(place)
                return
        except Timeout:
            continue
    time.sleep(0.1)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # renamed meanwhile
        return 0


def _lock_of(place: Path) -> Path:
    return place.with_suffix(".lock")
