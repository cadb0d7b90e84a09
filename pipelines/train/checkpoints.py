"""The intermediate checkpoints of a training, in a folder or on S3.

Ray Train's own checkpoint manager verifies no digests, and keeps checkpoints by age or by score, but not by both. So a
training resumes from the newest complete checkpoint in storage, whether or not Ray has recorded it.
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

METRICS = "metrics.json"
"""The validation metrics of a checkpoint."""
UNSENT = "unsent.json"
"""Metrics that were not sent to MLflow when a checkpoint was made."""
_FILES = (*FILES, METRICS, UNSENT)
_NAME = re.compile(r"step-\d{9}")
_RAY_SNAPSHOT, _RAY_MARKER = "checkpoint_manager_snapshot.json", ".validate_storage_marker"


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints in a folder or below `s3://bucket/prefix`, each a directory `step-NNNNNNNNN`.

    If the storage fails, every method raises `OSError` or `StorageError`.
    """

    location: str

    def check(self) -> None:
        """Raise `UserError` if the location is missing or not accessible."""
        try:
            self.names()
        except (FileNotFoundError, PermissionError) as error:
            raise UserError(f"compute.checkpoints: {self.location} cannot be used: {error.strerror}") from None

    def names(self) -> list[str]:
        """Return the names of the complete checkpoints, oldest first."""
        paths = (name.rpartition("/") for name in tree.names(self.location))
        return sorted(folder for folder, _, file in paths if file == MANIFEST and _NAME.fullmatch(folder))

    def put(self, source: Path, name: str) -> None:
        """Store a checkpoint from a local folder, with its manifest last, which makes it complete."""
        tree.delete(self.location, [f"{name}/{MANIFEST}"])  # a checkpoint being replaced is not complete
        for file in sorted(tree.names(str(source)), key=lambda file: file == MANIFEST):
            tree.put(source / file, self.location, f"{name}/{file}")

    @contextmanager
    def newest(self, log: Callable[[str], None], last_step: int) -> Iterator[tuple[str, Checkpoint] | None]:
        """Yield the newest undamaged checkpoint up to `last_step`, with its name; damaged ones are logged and skipped.

        Yields None if there are no checkpoints. Raises `UserError` if all are damaged.
        """
        self._abort_unfinished_uploads()
        names = self._until(last_step)
        with contextlib.ExitStack() as stack:
            for name in reversed(names):
                try:
                    found = stack.enter_context(self.open(name))
                except UserError as error:
                    log(f"{error}; trying the checkpoint before it")
                    continue
                yield name, found
                return
            if names:
                raise UserError(f"all checkpoints in {self.location} are damaged; delete them to restart this stage")
            yield None

    @contextmanager
    def open(self, name: str) -> Iterator[Checkpoint]:
        """Yield a checkpoint, which is local while the block runs. Raises `UserError` if it is damaged.

        Processes of one machine that open it at the same time download it once.
        """
        if not is_address(self.location):
            yield load_checkpoint(Path(self.location) / name)
            return
        address = f"{self.location}/{name}"

        def download(folder: Path) -> None:
            for file in tree.names(address):
                tree.download(address, file, folder / name / file)

        with shared_on_node(address, download) as folder:
            yield load_checkpoint(folder / name)

    def best(self) -> str | None:
        """Return the name of the checkpoint with the lowest validation loss, None if none was validated."""
        losses = {name: loss for name in self.names() if (loss := self._validation_loss(name)) is not None}
        return min(losses, key=lambda name: losses[name], default=None)

    def prune(self, keep: int, step: int) -> None:
        """Delete all up to `step` except for the last `keep` and the best; later ones belong to a longer training."""
        names = self._until(step)
        self._delete(set(names[:-keep]) - {self.best()})

    def keep_only(self, step: int) -> None:
        """Delete all checkpoints before that of a step, complete or not, and Ray's files beside them."""
        folders = {name.partition("/")[0] for name in tree.names(self.location)}
        self._delete({folder for folder in folders if folder < checkpoint_name(step)})
        tree.delete(self.location, [_RAY_SNAPSHOT, _RAY_MARKER])

    def _until(self, step: int) -> list[str]:
        return [name for name in self.names() if name <= checkpoint_name(step)]

    def forget_ray_snapshot(self) -> None:
        """Delete Ray Train's list of checkpoints, with which Ray would fail if one of them is gone."""
        tree.delete(self.location, [_RAY_SNAPSHOT])

    def as_ray_checkpoint(self, name: str) -> RayCheckpoint:
        """Return a checkpoint in Ray Train's form."""
        return RayCheckpoint(to_uri(f"{self.location}/{name}"))

    def _validation_loss(self, name: str) -> float | None:
        try:
            metrics: dict[str, float] = json.loads(tree.read(self.location, f"{name}/{METRICS}"))
        except (FileNotFoundError, ValueError):
            return None
        return metrics.get("validation_loss")

    def _abort_unfinished_uploads(self) -> None:
        """Delete the parts of uploads by a killed training, which are not objects but cost money."""
        if is_address(self.location):
            with contextlib.suppress(PermissionError, s3.StorageError):  # only cleanup
                s3.forget_unfinished_uploads(f"{self.location}/")

    def _delete(self, names: Collection[str]) -> None:
        """Delete the files of checkpoints, the manifest first, and no other files."""
        for name in names:
            if _NAME.fullmatch(name):
                tree.delete(f"{self.location}/{name}", _FILES)
                if not is_address(self.location):
                    remove_checkpoint(Path(self.location) / name)


def checkpoint_name(step: int) -> str:
    """Return the name of a step's checkpoint."""
    return f"step-{step:09d}"


def step_of(name: str) -> int:
    """Return the step of a checkpoint's name."""
    return int(name.rpartition("-")[2])
