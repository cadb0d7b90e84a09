"""One shard: a WebDataset tar file, written atomically and read at random.

Writing goes through `webdataset.TarWriter` with fixed metadata, so equal samples give equal bytes. Reading does not
go through WebDataset's iterators: they can neither be positioned exactly nor divided evenly over any number of ranks,
and drop what follows damage without a word. A tar file needs neither: an index of offsets makes it an array.
"""

import hashlib
import os
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from daefr.data.manifest import Shard
from daefr.errors import UserError
from daefr.files import write_aside

Sample = Mapping[str, str | bytes]
"""Field name to bytes, as WebDataset has it, with the sample's key under `__key__`."""


def write_shard(path: Path, samples: Iterable[Sample]) -> Shard:
    """Write samples to `path` under a temporary name, then rename: `path` is whole or absent. Returns its description.

    Equal samples give equal bytes. The keys must have no dot in them, which WebDataset would take for a field's name.
    """
    import webdataset  # noqa: PLC0415  # it imports PyTorch, which takes seconds and 500 MB: planning does without

    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with write_aside(path) as temporary:
        with temporary.open("wb") as stream:
            with webdataset.TarWriter(stream, encoder=False, mtime=0) as writer:
                for sample in samples:
                    writer.write(dict(sample))
                    count += 1
            stream.flush()
            os.fsync(stream.fileno())
        return Shard(name=path.name, bytes=temporary.stat().st_size, sha256=file_digest(temporary), samples=count)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class ShardReader:
    """Random access to the samples of one shard; opens the file once and reads only the fields that are asked for."""

    def __init__(self, folder: Path, shard: Shard, *, check_digest: bool = False) -> None:
        """Index the shard. Raises `UserError` when it is missing or not what the manifest says.

        With `check_digest` all of it is read for that; without, its size and the number of its samples must be right.
        """
        self.path = folder / shard.name
        try:
            self._index = _index(self.path)
            self._descriptor = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            raise UserError(f"shard {self.path} is missing; the manifest beside it lists it") from None
        except tarfile.TarError as error:
            raise UserError(f"shard {self.path} is damaged: {error}") from None
        if self.path.stat().st_size != shard.bytes or len(self._index) != shard.samples:
            raise UserError(
                f"shard {self.path} is damaged: {self.path.stat().st_size} bytes and {len(self._index)} samples "
                f"where the manifest says {shard.bytes} and {shard.samples}"
            )
        if check_digest and file_digest(self.path) != shard.sha256:
            raise UserError(f"shard {self.path} is damaged: it does not have the digest of the manifest")

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._index)

    def key(self, index: int) -> str:
        """Return the key of a sample."""
        return self._index[index][0]

    def read(self, index: int, field: str) -> bytes:
        """Return one field of a sample, such as `hq.png`. Raises `KeyError` when the sample lacks it."""
        offset, size = self._index[index][1][field]
        return os.pread(self._descriptor, size, offset)

    def read_only(self, index: int, stem: str) -> bytes:
        """Return the one field that begins with `stem` and a dot, such as `hq.webp` of `hq`, whatever its suffix.

        Raises `KeyError` when the sample lacks it.
        """
        for field in self._index[index][1]:
            if field.startswith(f"{stem}."):
                return self.read(index, field)
        raise KeyError(stem)

    def fields(self, index: int) -> list[str]:
        """Return the names of a sample's fields."""
        return list(self._index[index][1])

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _index(path: Path) -> list[tuple[str, dict[str, tuple[int, int]]]]:
    """Return (key, {field: (offset, size)}) of every sample, in the order of the file."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            key, _, field = member.name.partition(".")
            samples.setdefault(key, {})[field] = (member.offset_data, member.size)
    return list(samples.items())
