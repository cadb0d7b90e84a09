"""The interface to which a training reports its results, and an implementation for a folder."""

import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any, Protocol

from daefr import ranks
from daefr.checkpoint import MANIFEST, Checkpoint, load_newest, remove_checkpoint
from daefr.files import new_folder
from daefr.images import Image

BEST = "best.json"

Save = Callable[[Path], None]
"""Writes a checkpoint into a directory, on any thread, while training continues."""


class Reporter(Protocol):
    """Receives the results of a training: `metrics` and `image` from rank 0 only, the rest from every rank."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Receive metrics by name."""

    def image(self, step: int, name: str, image: Image) -> None:
        """Receive a picture, (H, W, 3) uint8 RGB."""

    def checkpoint(self, step: int, save: Save) -> None:
        """Store a checkpoint that `save` writes, now or later; only rank 0's `save` may be called.

        If the same step was validated, its metrics have been reported before.
        """

    def should_stop(self) -> bool:
        """Return whether the training should stop; called once per step. If one rank returns true, all stop."""

    def finish(self) -> None:
        """Return when all checkpoints are stored."""


class FolderReporter:
    """Keeps the newest checkpoints and the best one in a folder, and metrics in memory.

    Checkpoints are written while training continues. The best one has the lowest validation loss.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        """Write to `folder`, and keep the `keep` newest checkpoints."""
        self._folder, self._keep = folder, keep
        self._writer, self._writing = ThreadPoolExecutor(1, "checkpoint"), Future[None]()
        self._writing.set_result(None)
        self.history: list[tuple[int, dict[str, float]]] = []
        self.stop = Event()
        """If set, the training stops at the next step, with a checkpoint."""

    def resume(self) -> Checkpoint | None:
        """Open the newest undamaged checkpoint, None before the first. Raises like `load_newest`."""
        self.finish()
        return load_newest(self._checkpoints())

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Store the metrics."""
        self.history.append((step, values))

    def image(self, step: int, name: str, image: Image) -> None:
        """Ignore the picture."""

    def checkpoint(self, step: int, save: Save) -> None:
        """Write the checkpoint in the background, then delete old ones."""
        if ranks.rank() == 0:
            self.finish()  # one at a time, in order
            loss = dict(self.history[-1:]).get(step, {}).get("validation_loss")
            self._writing = self._writer.submit(self._write, step, save, loss)

    def should_stop(self) -> bool:
        """See `stop`."""
        return self.stop.is_set()

    def finish(self) -> None:
        """Wait until the last checkpoint is written, and raise its error, if any."""
        self._writing.result()

    def _write(self, step: int, save: Save, loss: float | None) -> None:
        target = self._folder / f"step-{step:09d}"
        self._folder.mkdir(parents=True, exist_ok=True)
        with new_folder(target) as temporary:
            save(temporary)
            remove_checkpoint(target)
        best = self._best()
        if loss is not None and (best is None or loss < best["validation_loss"]):
            best = {"checkpoint": target.name, "validation_loss": loss}
            (self._folder / BEST).write_text(json.dumps(best))
        for old in self._checkpoints()[: -self._keep]:
            if best is None or old.name != best["checkpoint"]:
                remove_checkpoint(old)

    def _best(self) -> dict[str, Any] | None:
        path = self._folder / BEST
        best: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
        return best

    def _checkpoints(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("step-" + "[0-9]" * 9) if (path / MANIFEST).is_file())
