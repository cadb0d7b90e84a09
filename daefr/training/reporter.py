"""Where a training reports to."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from daefr.data.images import Image

Save = Callable[[Path], None]
"""Writes a checkpoint into a directory."""


class Reporter(Protocol):
    """Takes what a training has to tell: `metrics` and `image` from rank 0 only, `checkpoint` from every rank."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Take numbers by name."""

    def image(self, step: int, name: str, image: Image) -> None:
        """Take a picture, (H, W, 3) uint8 RGB."""

    def checkpoint(self, step: int, save: Save) -> None:
        """Keep a checkpoint that `save` writes."""


class FolderReporter:
    """Keeps the newest checkpoint in a folder and the metrics in memory: for training without a cluster."""

    def __init__(self, folder: Path) -> None:
        """Report into `folder`."""
        self._folder = folder
        self.history: list[tuple[int, dict[str, float]]] = []

    @property
    def latest(self) -> Path | None:
        """The newest checkpoint, None before the first."""
        found = sorted(self._folder.glob("step-*"))
        return found[-1] if found else None

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Remember the numbers."""
        self.history.append((step, values))

    def image(self, step: int, name: str, image: Image) -> None:
        """Ignore the picture."""

    def checkpoint(self, step: int, save: Save) -> None:
        """Write the checkpoint aside, rename it, and only then delete the one before."""
        before, target = self.latest, self._folder / f"step-{step:09d}"
        temporary = self._folder / f".step-{step:09d}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        save(temporary)
        temporary.rename(target)
        if before is not None and before != target:
            shutil.rmtree(before)
