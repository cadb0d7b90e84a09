"""Checkpoints: directories with the weights and configuration of a stage, and digests of all files.

model.safetensors     the weights of the stage
config.json           the name of the stage and the settings of its network
released.safetensors  imported checkpoints only: tensors that our network does not have, for the export
ema.safetensors       the moving averages of the weights, if training computes them
trainer/state.pt      intermediate checkpoints only: the training state
manifest.json         the digests of the other files; written last
"""

import contextlib
import json
import logging
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor

from daefr.errors import UserError, one_line
from daefr.files import file_digest, write_atomically
from daefr.locate import suggest_below
from daefr.settings.base import Settings, StageName
from daefr.settings.network import NetworkConfig

MANIFEST, CONFIG, MODEL, TRAINER = "manifest.json", "config.json", "model.safetensors", "trainer/state.pt"
RELEASED, AVERAGE = "released.safetensors", "ema.safetensors"
FILES = (MANIFEST, MODEL, CONFIG, TRAINER, RELEASED, AVERAGE)
"""All files of a checkpoint; deleting the first makes it incomplete."""

logger = logging.getLogger(__name__)


class CheckpointConfig(Settings):
    """The content of `config.json`."""

    format: Literal[1] = 1
    stage: StageName
    network: NetworkConfig


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint, whose tensors are read on demand."""

    path: Path
    stage: StageName
    network: NetworkConfig

    def tensors(self) -> dict[str, Tensor]:
        """Read the weights, on the CPU."""
        return self._load(MODEL)

    def released(self) -> dict[str, Tensor]:
        """Read the other tensors of a released checkpoint, by their released names; empty for any other."""
        return self._load(RELEASED)

    def average(self) -> dict[str, Tensor]:
        """Read the moving averages of the weights, by the weights' names; empty if there are none."""
        return self._load(AVERAGE)

    def trainer(self) -> dict[str, Any]:
        """Read the training state. Raises `UserError` if the checkpoint has none."""
        path = self.path / TRAINER
        if not path.is_file():
            raise UserError(f"{self.path} has no {TRAINER}, so training cannot resume from it")
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            raise UserError(f"{path} is not loaded, because it contains more than tensors and numbers") from None
        return state

    def _load(self, name: str) -> dict[str, Tensor]:
        path = self.path / name
        tensors: dict[str, Tensor] = safetensors.torch.load_file(path) if path.is_file() else {}
        return tensors


def save_checkpoint(
    directory: Path,
    stage: StageName,
    network: NetworkConfig,
    tensors: dict[str, Tensor],
    trainer: dict[str, Any] | None = None,
    *,
    average: dict[str, Tensor] | None = None,
    released: dict[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint into an empty or absent directory, with the manifest last."""
    directory.mkdir(parents=True, exist_ok=True)
    _save_tensors(tensors, directory / MODEL)
    for name, optional in ((RELEASED, released), (AVERAGE, average)):
        if optional:
            _save_tensors(optional, directory / name)
    config = CheckpointConfig(stage=stage, network=network)
    (directory / CONFIG).write_text(config.model_dump_json(indent=2) + "\n")
    if trainer is not None:
        (directory / TRAINER).parent.mkdir(exist_ok=True)
        torch.save(trainer, directory / TRAINER)
    write_checkpoint_manifest(directory)


def write_checkpoint_manifest(directory: Path) -> None:
    """Write the digests of a checkpoint's files, which completes the checkpoint."""
    present = [name for name in (MODEL, CONFIG, TRAINER, RELEASED, AVERAGE) if (directory / name).is_file()]
    digests = {name: file_digest(directory / name) for name in present}
    write_atomically(directory / MANIFEST, json.dumps({"format": 1, "sha256": digests}, indent=2) + "\n")


def load_checkpoint(directory: Path) -> Checkpoint:
    """Open a checkpoint. Raises `UserError` if `directory` is not one, or if a file is missing or damaged."""
    try:
        digests: dict[str, str] = dict(json.loads((directory / MANIFEST).read_text())["sha256"])
    except (FileNotFoundError, NotADirectoryError):
        nearby = suggest_below(directory)
        raise UserError(f"{directory} is not a checkpoint directory: it has no {MANIFEST}{nearby}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{directory / MANIFEST} is damaged: it is not JSON with the digests of the files") from None
    for name in (MODEL, CONFIG):
        if name not in digests:
            raise UserError(f"{directory / MANIFEST} is damaged: it has no digest of {name}")
    for name, digest in digests.items():
        path = directory / name
        if not path.is_file():
            raise UserError(f"checkpoint {directory} is incomplete: {name} is missing")
        if file_digest(path) != digest:
            raise UserError(f"checkpoint {directory} is damaged: {name} does not match its digest in {MANIFEST}")
    try:
        config = CheckpointConfig.model_validate_json((directory / CONFIG).read_text())
    except (OSError, ValidationError) as error:
        raise UserError(f"{directory / CONFIG} is invalid: {one_line(error)}") from None
    return Checkpoint(directory, config.stage, config.network)


def load_newest(directories: Sequence[Path]) -> Checkpoint | None:
    """Open the last undamaged checkpoint of a list; None if the list is empty.

    Damaged ones are skipped with a warning. Raises `UserError` if all are damaged.
    """
    problems = []
    for directory in reversed(directories):
        try:
            return load_checkpoint(directory)
        except UserError as error:
            problems.append(str(error))
            logger.warning("%s; trying the checkpoint before it", error)
    if problems:
        raise UserError(f"all checkpoints are damaged: {'; '.join(problems)}")
    return None


def remove_checkpoint(directory: Path) -> None:
    """Delete the files of a checkpoint, and its directory if it has no other files."""
    for name in FILES:
        (directory / name).unlink(missing_ok=True)
    for folder in ((directory / TRAINER).parent, directory):
        with contextlib.suppress(OSError):
            folder.rmdir()


def save_averaged(checkpoint: Checkpoint, directory: Path) -> None:
    """Write the averaged weights of a checkpoint as another checkpoint. Raises `UserError` if it has none."""
    average = checkpoint.average()
    if not average:
        raise UserError(f"{checkpoint.path} has no averaged weights, because it was trained without ema_decay")
    save_checkpoint(directory, checkpoint.stage, checkpoint.network, checkpoint.tensors() | average)


def checkpoint_digest(directory: Path) -> str:
    """Return a checkpoint's digest: that of its manifest, which contains all others."""
    return file_digest(directory / MANIFEST)


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    path.touch()
    mode = path.stat().st_mode
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    path.chmod(mode)  # safetensors removes the permissions of group and others
