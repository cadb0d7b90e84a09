"""The checkpoints of a training on its way, in a folder or on S3: which there are, which is whole, which are kept.

Ray Train has a list of its own, which knows no digests, and keeps by age or by score, not both. So what is there is
what counts: the newest checkpoint that is whole is where a training goes on, whether or not Ray had noted it.
"""

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.fs
from ray.train import Checkpoint as RayCheckpoint

from daefr.checkpoint import MANIFEST, Checkpoint, load_checkpoint
from daefr.errors import UserError
from pipelines.storage import s3

MEASURES = "measures.json"
"""What was measured of a checkpoint, beside it."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints below a place, a folder or `s3://bucket/prefix`, each a directory `step-NNNNNNNNN`.

    Where the store fails, every method raises `OSError`.
    """

    place: str

    @cached_property
    def _store(self) -> tuple[pyarrow.fs.FileSystem, str]:
        if not s3.is_address(self.place):
            return pyarrow.fs.LocalFileSystem(), self.place
        filesystem, path = pyarrow.fs.FileSystem.from_uri(self.place)
        return filesystem, path

    def __getstate__(self) -> dict[str, Any]:
        return {"place": self.place}

    def names(self) -> list[str]:
        """Return the names of the checkpoints that were written to their end, oldest first."""
        filesystem, root = self._store
        found = filesystem.get_file_info(pyarrow.fs.FileSelector(root, recursive=True, allow_not_found=True))
        whole = {Path(file.path).parent.name for file in found if file.base_name == MANIFEST}
        return sorted(name for name in whole if name.startswith("step-"))

    def put(self, source: Path, name: str) -> int:
        """Store a checkpoint from a folder here; its manifest, which makes it one, last. Return its size in bytes."""
        filesystem, root = self._store
        target, here = f"{root}/{name}", pyarrow.fs.LocalFileSystem()
        if filesystem.get_file_info(f"{target}/{MANIFEST}").type != pyarrow.fs.FileType.NotFound:
            filesystem.delete_file(f"{target}/{MANIFEST}")  # what is being replaced is none meanwhile
        files = sorted((path for path in source.rglob("*") if path.is_file()), key=lambda path: path.name == MANIFEST)
        for path in files:
            wanted = f"{target}/{path.relative_to(source).as_posix()}"
            filesystem.create_dir(wanted.rpartition("/")[0])
            pyarrow.fs.copy_files(str(path), wanted, source_filesystem=here, destination_filesystem=filesystem)
        return sum(path.stat().st_size for path in files)

    @contextmanager
    def newest(self, tell: Callable[[str], None]) -> Iterator[tuple[str, Checkpoint] | None]:
        """Give name and content of the newest checkpoint that is whole; damaged ones are told, and passed over."""
        with contextlib.ExitStack() as stack:
            for name in reversed(self.names()):
                try:
                    found = stack.enter_context(self.open(name))
                except UserError as error:
                    tell(f"{error}: the one before it is used")
                    continue
                yield name, found
                return
            yield None

    @contextmanager
    def open(self, name: str) -> Iterator[Checkpoint]:
        """Give a checkpoint, on this machine while the block runs. Raises `UserError` when it is not whole."""
        filesystem, root = self._store
        if isinstance(filesystem, pyarrow.fs.LocalFileSystem):
            yield load_checkpoint(Path(root) / name)
            return
        with tempfile.TemporaryDirectory(prefix="daefr-") as scratch:
            folder = Path(scratch) / name
            folder.mkdir()
            pyarrow.fs.copy_files(f"{root}/{name}", str(folder), source_filesystem=filesystem)
            yield load_checkpoint(folder)

    def best(self) -> str | None:
        """Return the name of the checkpoint with the lowest validation loss, None where none was measured."""
        losses = {name: loss for name in self.names() if (loss := self.measures(name).get("validation_loss"))}
        return min(losses, key=lambda name: losses[name], default=None)

    def measures(self, name: str) -> dict[str, float]:
        """Return what was measured of a checkpoint."""
        filesystem, root = self._store
        try:
            with filesystem.open_input_stream(f"{root}/{name}/{MEASURES}") as stream:
                measured: dict[str, float] = json.loads(stream.read())
        except (FileNotFoundError, ValueError):
            return {}
        return measured

    def prune(self, keep: int) -> None:
        """Delete all but the last `keep` and the best."""
        filesystem, root = self._store
        names = self.names()
        for name in set(names[:-keep]) - {self.best()}:
            filesystem.delete_file(f"{root}/{name}/{MANIFEST}")
            filesystem.delete_dir(f"{root}/{name}")

    def remove(self) -> None:
        """Delete them all, and what Ray noted beside them."""
        filesystem, root = self._store
        if filesystem.get_file_info(root).type != pyarrow.fs.FileType.NotFound:
            filesystem.delete_dir(root)

    def forget_list(self) -> None:
        """Delete Ray Train's list, which Ray would insist on although a checkpoint that it names were gone."""
        filesystem, root = self._store
        path = f"{root}/checkpoint_manager_snapshot.json"
        if filesystem.get_file_info(path).type != pyarrow.fs.FileType.NotFound:
            filesystem.delete_file(path)

    def address(self, name: str) -> RayCheckpoint:
        """Return a checkpoint as Ray Train knows it."""
        filesystem, root = self._store
        return RayCheckpoint(f"{root}/{name}", filesystem)


def checkpoint_name(step: int) -> str:
    """Return the name of a step's checkpoint."""
    return f"step-{step:09d}"
