"""Checkpoints: a directory with weights, what rebuilds their network, and digests that say whether it is whole.

model.safetensors     every weight of the stage
config.json           the stage's name and its network's settings
released.safetensors  of an imported checkpoint: what has no place in our network, to be exported again
ema.safetensors       the moving averages of those that have one (only where training keeps them)
trainer/state.pt      what training needs to go on (only in checkpoints made on the way)
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
"""Of a checkpoint, the one first without which it is none."""

logger = logging.getLogger(__name__)


class CheckpointConfig(Settings):
    """The content of `config.json`."""

    format: Literal[1] = 1
    stage: StageName
    network: NetworkConfig


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found whole; its tensors are read when asked for."""

    path: Path
    stage: StageName
    network: NetworkConfig

    def tensors(self) -> dict[str, Tensor]:
        """Read the weights, on the CPU."""
        tensors: dict[str, Tensor] = safetensors.torch.load_file(self.path / MODEL)
        return tensors

    def released(self) -> dict[str, Tensor]:
        """Read what a released checkpoint held beside these weights, by its name there; empty unless it was one."""
        path = self.path / RELEASED
        tensors: dict[str, Tensor] = safetensors.torch.load_file(path) if path.is_file() else {}
        return tensors

    def average(self) -> dict[str, Tensor]:
        """Read the moving averages of the weights, by the weights' names; empty where training kept none."""
        path = self.path / AVERAGE
        tensors: dict[str, Tensor] = safetensors.torch.load_file(path) if path.is_file() else {}
        return tensors

    def trainer(self) -> dict[str, Any]:
        """Read what training needs to go on. Raises `UserError` when the checkpoint has none, as released ones do."""
        path = self.path / TRAINER
        if not path.is_file():
            raise UserError(f"{self.path} holds a model but no training to go on with: it has no {TRAINER}")
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            raise UserError(
                f"{path} holds more than tensors and numbers: it is not loaded, as it could be code"
            ) from None
        return state


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
    """Write a checkpoint into an empty or absent directory; the manifest, which makes it one, comes last."""
    directory.mkdir(parents=True, exist_ok=True)
    _save_tensors(tensors, directory / MODEL)
    for name, more in ((RELEASED, released), (AVERAGE, average)):
        if more:
            _save_tensors(more, directory / name)
    config = CheckpointConfig(stage=stage, network=network)
    (directory / CONFIG).write_text(config.model_dump_json(indent=2) + "\n")
    if trainer is not None:
        (directory / TRAINER).parent.mkdir(exist_ok=True)
        torch.save(trainer, directory / TRAINER)
    write_checkpoint_manifest(directory)


def write_checkpoint_manifest(directory: Path) -> None:
    """Write the digests of a checkpoint's files; what has no manifest is no checkpoint."""
    present = [name for name in (MODEL, CONFIG, TRAINER, RELEASED, AVERAGE) if (directory / name).is_file()]
    digests = {name: file_digest(directory / name) for name in present}
    write_atomically(directory / MANIFEST, json.dumps({"format": 1, "sha256": digests}, indent=2) + "\n")


def load_checkpoint(directory: Path) -> Checkpoint:
    """Open a checkpoint. Raises `UserError` when `directory` is none, or when a file is missing or altered."""
    try:
        digests: dict[str, str] = dict(json.loads((directory / MANIFEST).read_text())["sha256"])
    except (FileNotFoundError, NotADirectoryError):
        nearby = suggest_below(directory)
        raise UserError(f"{directory} is not a checkpoint directory: it has no {MANIFEST}{nearby}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{directory / MANIFEST} is damaged: it should be JSON with the digests of the files") from None
    for name in (MODEL, CONFIG):
        if name not in digests:
            raise UserError(f"{directory / MANIFEST} is damaged: it has no digest of {name}")
    for name, digest in digests.items():
        path = directory / name
        if not path.is_file():
            raise UserError(f"checkpoint {directory} is incomplete: {name} is missing")
        if file_digest(path) != digest:
            raise UserError(f"checkpoint {directory} is damaged: {name} does not have the digest of its manifest")
    try:
        config = CheckpointConfig.model_validate_json((directory / CONFIG).read_text())
    except (OSError, ValidationError) as error:
        raise UserError(f"{directory / CONFIG} is no description of a checkpoint: {one_line(error)}") from None
    return Checkpoint(directory, config.stage, config.network)


def newest_whole(directories: Sequence[Path]) -> Checkpoint | None:
    """Open the last of some checkpoints, oldest first, that is whole; None where there are none at all.

    Those that are damaged are passed over with a warning. Raises `UserError` when all are.
    """
    problems = []
    for directory in reversed(directories):
        try:
            return load_checkpoint(directory)
        except UserError as error:
            problems.append(str(error))
            logger.warning("%s; the one before it is used", error)
    if problems:
        raise UserError(f"no checkpoint is whole: {'; '.join(problems)}")
    return None


def remove_checkpoint(directory: Path) -> None:
    """Delete the files of a checkpoint, and its directory unless it holds anything else."""
    for name in FILES:
        (directory / name).unlink(missing_ok=True)
    for folder in ((directory / TRAINER).parent, directory):
        with contextlib.suppress(OSError):
            folder.rmdir()


def save_averaged(checkpoint: Checkpoint, directory: Path) -> None:
    """Write the averaged weights of a checkpoint as one of its own, without what only training needs.

    Raises `UserError` where it has none.
    """
    average = checkpoint.average()
    if not average:
        raise UserError(f"{checkpoint.path} has no averaged weights: it was trained without ema")
    save_checkpoint(directory, checkpoint.stage, checkpoint.network, checkpoint.tensors() | average)


def digest_of(directory: Path) -> str:
    """Return a digest of a whole checkpoint: that of its manifest, which holds all others."""
    return file_digest(directory / MANIFEST)


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    path.touch()
    mode = path.stat().st_mode
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    path.chmod(mode)  # which the library narrows to the owner, though others shall restore with it
