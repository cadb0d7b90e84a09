"""The checkpoints of a training on its way, in a folder or on S3: which there are, which is whole, which are kept.

Ray Train has a list of its own, which knows no digests, and keeps by age or by score, not both. So what is there is
what counts: the newest checkpoint that is whole is where a training goes on, whether or not Ray had noted it.
"""

import contextlib
import json
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ray.train import Checkpoint as RayCheckpoint

from daefr.checkpoint import FILES, MANIFEST, Checkpoint, load_checkpoint, remove_checkpoint
from daefr.errors import UserError
from pipelines.storage import s3, tree
from pipelines.storage.address import is_address, to_uri
from pipelines.storage.shared import shared_on_node

MEASURES = "measures.json"
"""What was measured of a checkpoint, beside it."""
UNSENT = "unsent.json"
"""Beside a checkpoint: values on their way to MLflow."""
_FILES = (*FILES, MEASURES, UNSENT)
_NAME = re.compile(r"step-\d{9}")
_RAYS_LIST, _RAYS_MARKER = "checkpoint_manager_snapshot.json", ".validate_storage_marker"


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints below a place, a folder or `s3://bucket/prefix`, each a directory `step-NNNNNNNNN`.

    Where the store fails, every method raises `OSError` or `StorageError`.
    """

    place: str

    def check(self) -> None:
        """Raise `UserError` where the place cannot be used, however often it is tried."""
        try:
            self.names()
        except (FileNotFoundError, PermissionError) as error:
            raise UserError(f"compute.checkpoints: {self.place} cannot be used: {error.strerror}") from None

    def names(self) -> list[str]:
        """Return the names of the checkpoints that were written to their end, oldest first."""
        ends = (name.rpartition("/") for name in tree.names(self.place))
        return sorted(folder for folder, _, file in ends if file == MANIFEST and _NAME.fullmatch(folder))

    def put(self, source: Path, name: str) -> int:
        """Store a checkpoint from a folder here; its manifest, which makes it one, last. Return its size in bytes."""
        tree.delete(self.place, [f"{name}/{MANIFEST}"])  # what is replaced is none meanwhile
        files = sorted(tree.names(str(source)), key=lambda file: file == MANIFEST)
        for file in files:
            tree.put(source / file, self.place, f"{name}/{file}")
        return sum((source / file).stat().st_size for file in files)

    @contextmanager
    def newest(self, tell: Callable[[str], None], last_step: int) -> Iterator[tuple[str, Checkpoint] | None]:
        """Give name and content of the newest valid checkpoint, of `last_step` at most; damaged ones are reported.

        Gives None where there are none at all; raises `UserError` when all are damaged.
        """
        self._forget_unfinished_uploads()
        names = self._until(last_step)
        with contextlib.ExitStack() as stack:
            for name in reversed(names):
                try:
                    found = stack.enter_context(self.open(name))
                except UserError as error:
                    tell(f"{error}: one before it is used")
                    continue
                yield name, found
                return
            if names:
                raise UserError(f"no checkpoint in {self.place} is whole: delete them to begin this stage anew")
            yield None

    @contextmanager
    def open(self, name: str) -> Iterator[Checkpoint]:
        """Give a checkpoint, on this machine while the block runs. Raises `UserError` when it is not whole.

        Processes of one machine that open it together download it once.
        """
        if not is_address(self.place):
            yield load_checkpoint(Path(self.place) / name)
            return
        address = f"{self.place}/{name}"

        def download(folder: Path) -> None:
            for file in tree.names(address):
                tree.get(address, file, folder / name / file)

        with shared_on_node(address, download) as folder:
            yield load_checkpoint(folder / name)

    def best(self) -> str | None:
        """Return the name of the checkpoint with the lowest validation loss, None where none was measured."""
        losses = {
            name: loss for name in self.names() if (loss := self._measures(name).get("validation_loss")) is not None
        }
        return min(losses, key=lambda name: losses[name], default=None)

    def prune(self, keep: int, step: int) -> None:
        """Delete all up to `step` but the last `keep` and the best; later ones are of a longer training."""
        names = self._until(step)
        self._delete(set(names[:-keep]) - {self.best()})

    def keep_only(self, step: int) -> None:
        """Delete what comes before the checkpoint of a step, unfinished ones too, and what Ray noted beside them."""
        folders = {name.partition("/")[0] for name in tree.names(self.place)}
        self._delete({folder for folder in folders if folder < checkpoint_name(step)})
        tree.delete(self.place, [_RAYS_LIST, _RAYS_MARKER])

    def _until(self, step: int) -> list[str]:
        return [name for name in self.names() if name <= checkpoint_name(step)]

    def forget_list(self) -> None:
        """Delete Ray Train's list, which Ray would insist on although a checkpoint that it names were gone."""
        tree.delete(self.place, [_RAYS_LIST])

    def address(self, name: str) -> RayCheckpoint:
        """Return a checkpoint as Ray Train knows it."""
        return RayCheckpoint(to_uri(f"{self.place}/{name}"))

    def _measures(self, name: str) -> dict[str, float]:
        try:
            measured: dict[str, float] = json.loads(tree.read(self.place, f"{name}/{MEASURES}"))
        except (FileNotFoundError, ValueError):
            return {}
        return measured

    def _forget_unfinished_uploads(self) -> None:
        """Drop the parts of uploads that a killed training left: they are no objects, but are paid for."""
        if is_address(self.place):
            with contextlib.suppress(PermissionError, s3.StorageError):  # this only tidies up
                s3.forget_unfinished_uploads(f"{self.place}/")

    def _delete(self, names: Collection[str]) -> None:
        """Delete checkpoints, also what there is of them: their own files, the manifest first, and no others."""
        for name in names:
            if _NAME.fullmatch(name):
                tree.delete(f"{self.place}/{name}", _FILES)
                if not is_address(self.place):
                    remove_checkpoint(Path(self.place) / name)


def checkpoint_name(step: int) -> str:
    """Return the name of a step's checkpoint."""
    return f"step-{step:09d}"


def step_of(name: str) -> int:
    """Return the step of a checkpoint's name."""
    return int(name.rpartition("-")[2])
