"""A bounded cache of shards on local disk, shared by all training processes of a machine."""

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
    """An LRU cache in `folder`, of at most `limit` bytes, for the shards at address `store`.

    Called with a shard, it yields its local path while a `with` block runs; a file opened there can be read afterwards,
    even if it is evicted. It can be sent to workers.
    """

    store: str
    folder: Path
    limit: int

    @contextmanager
    def __call__(self, shard: Shard) -> Iterator[Path]:
        """Yield the path of a shard, downloaded if necessary.

        Raises `UserError` if it is missing, damaged or too large, and `StorageError` if the store does not answer.
        """
        entry = expand_home(self.folder) / shard.sha256
        path = entry / shard.name
        entry.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(_lock_file(entry)):
            if path.exists():
                os.utime(entry)
            else:
                self._download(shard, path)
            yield path

    def _download(self, shard: Shard, path: Path) -> None:
        address = f"{self.store}/{shard.name}"
        _remove(path.parent)  # left by a killed process
        try:
            with atomic_path(path) as temporary:
                with self._reserve(temporary, shard.bytes) as stream:
                    s3.download(address, stream)
                if file_digest(temporary) != shard.sha256:
                    raise UserError(f"shard {address} is damaged: it does not match its digest in the manifest")
        except FileNotFoundError:
            raise UserError(f"shard {address} is missing, although the dataset's manifest lists it") from None

    def _reserve(self, path: Path, size: int) -> IO[bytes]:
        """Open a file with `size` bytes of disk space allocated, evicting other shards if necessary."""
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
                    f"compute.cache_dir={self.folder} has no space for {size} bytes ({error.strerror}); "
                    "set another folder, or a lower compute.max_cache_bytes"
                ) from None
        return stream


def _entries(folder: Path) -> list[Path]:
    """Return the folders of cached shards, ignoring anything else in the cache's folder."""
    return [path for path in folder.iterdir() if _DIGEST.fullmatch(path.name) and _files(path)]


def _files(entry: Path) -> list[Path]:
    """Return the files of a cached shard, ignoring any others in its folder."""
    return [path for path in entry.glob("*") if path.suffix in _SUFFIXES and path.is_file()]


def _remove(entry: Path) -> None:
    """Delete a cached shard, complete or not."""
    for path in _files(entry):
        path.unlink(missing_ok=True)
    with suppress(OSError):  # it has other files
        entry.rmdir()


def _total(folder: Path) -> int:
    return sum(_size(file) for entry in _entries(folder) for file in _files(entry))


def _evict_one(folder: Path) -> None:
    """Delete the least recently used shard; if all are being opened, wait briefly."""
    for entry in sorted(_entries(folder), key=lambda path: path.stat().st_mtime_ns):
        try:
            with FileLock(_lock_file(entry), blocking=False):
                _remove(entry)
                return
        except Timeout:
            continue
    time.sleep(0.1)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # renamed by another process
        return 0


def _lock_file(entry: Path) -> Path:
    return entry.with_suffix(".lock")
