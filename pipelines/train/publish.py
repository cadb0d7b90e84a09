"""Publishes the last intermediate checkpoint of a training as the step's checkpoints."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from daefr.checkpoint import CONFIG, MODEL, save_averaged, write_checkpoint_manifest
from daefr.errors import UserError
from pipelines.errors import StepFailedError
from pipelines.train.checkpoints import Checkpoints, checkpoint_name

CHECKPOINT, AVERAGED = "checkpoint", "checkpoint-ema"
FILES = (MODEL, CONFIG, "manifest.json")
"""The files of a published checkpoint."""


def publish_checkpoints(checkpoints: Checkpoints, last_step: int, folder: Path, *, averaged: bool) -> list[str]:
    """Copy the checkpoint of the last step, and its averaged weights, without the training state.

    Returns the folders' names. Raises `StepFailedError` if that checkpoint is damaged.
    """
    try:
        with checkpoints.open(checkpoint_name(last_step)) as last:
            with _replacing(folder / CHECKPOINT) as target:
                for name in (MODEL, CONFIG):
                    shutil.copyfile(last.path / name, target / name)
                write_checkpoint_manifest(target)
            if not averaged:
                return [CHECKPOINT]
            with _replacing(folder / AVERAGED) as target:
                save_averaged(last, target)
    except UserError as error:
        raise StepFailedError(f"{error}; run the same command to resume from the checkpoint before it") from None
    return [CHECKPOINT, AVERAGED]


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """Yield a folder that replaces `target` when the block is done."""
    temporary = target.with_name(f".{target.name}.tmp")
    for folder in (temporary, target):
        shutil.rmtree(folder, ignore_errors=True)
    temporary.mkdir()
    yield temporary
    temporary.rename(target)
