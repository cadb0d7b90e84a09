"""Finding a restoration model by what a user has at hand: a checkpoint, a released file, a run, a download of MLflow's.

Free of PyTorch, so that a wrong path is reported at once. Of a run directory it knows no more than that a step's folder
`steps/NAME-FINGERPRINT` has a `manifest.json` once the step is finished.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from daefr.errors import UserError
from daefr.files import expand_home

STAGE = "restoration"
CHECKPOINT_CONFIG = "config.json"
MLFLOW_MODEL, MLFLOW_CHECKPOINT = "MLmodel", "artifacts/checkpoint"
CHECKPOINT_FILES = (CHECKPOINT_CONFIG, "manifest.json", "model.safetensors")
MODEL_SUFFIXES = (".ckpt", ".pth", ".pt", ".safetensors")
VALID = "a checkpoint directory, a released .ckpt file, a run directory, or a model directory downloaded from MLflow"
DEPTH, MOST_FOLDERS, SHOWN = 3, 1000, 3
"""How far below a folder a model is looked for, in how many folders, and how many of those found are named."""


def find_model(model: str | Path) -> Path:
    """Return the checkpoint directory or released file that `model` stands for.

    Of a run directory that is the newest restoration model that was trained to its end. Raises `UserError` when there
    is none; what the files hold is checked when they are loaded.
    """
    if ":/" in str(model):
        raise UserError(
            f"{model} is an address, not a path: `daefr-pipelines restore --model {model}` takes models of an MLflow "
            f"registry, and `mlflow artifacts download --artifact-uri {model} --dst-path DIR` downloads one"
        )
    path = expand_home(model)
    if not path.exists():
        raise UserError(f"{path} does not exist; a model is {VALID}")
    if path.name in CHECKPOINT_FILES and (path.parent / CHECKPOINT_CONFIG).is_file():
        return path.parent
    if path.is_file() or _is_checkpoint(path):
        return path
    if _is_download(path):
        return path / MLFLOW_CHECKPOINT
    if _is_run(path):
        return _newest_of_run(path)
    raise UserError(f"{path} holds no model{suggest_below(path)}; a model is {VALID}")


def suggest_below(folder: Path) -> str:
    """Return words that name the models in the folders below, for a folder that is none; empty where there are none."""
    found = sorted(_models_below(folder))
    if not found:
        return ""
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"; did you mean {' or '.join(str(path) for path in found[:SHOWN])}{more}?"


def _models_below(folder: Path) -> Iterator[Path]:
    waiting, looked = [(folder, 0)], 0
    while waiting and looked < MOST_FOLDERS:
        here, depth = waiting.pop(0)
        looked += 1
        try:
            inside = sorted(here.iterdir())
        except OSError:
            continue
        for path in inside:
            if not path.is_dir():
                if path.suffix in MODEL_SUFFIXES:
                    yield path
            elif _is_checkpoint(path) or _is_download(path) or _is_run(path):
                yield path
            elif depth + 1 < DEPTH:
                waiting.append((path, depth + 1))


def _is_checkpoint(path: Path) -> bool:
    return (path / CHECKPOINT_CONFIG).is_file()


def _is_download(path: Path) -> bool:
    return (path / MLFLOW_MODEL).is_file() and (path / MLFLOW_CHECKPOINT).is_dir()


def _is_run(path: Path) -> bool:
    return (path / "steps").is_dir()


def _newest_of_run(run: Path) -> Path:
    finished = [(manifest["finished"], folder) for folder, manifest in _finished_steps(run)]
    if not finished:
        raise UserError(f"{run} is a run directory without a finished {STAGE} stage: finish the run, or choose another")
    _, newest = max(finished)
    return newest / "checkpoint"


def _finished_steps(run: Path) -> list[tuple[Path, dict[str, Any]]]:
    steps = []
    for path in run.glob(f"steps/{STAGE}-*/manifest.json"):
        try:
            manifest = json.loads(path.read_text())
        except (OSError, ValueError):
            continue  # a damaged manifest commits nothing
        if manifest.get("step") == STAGE and "finished" in manifest and (path.parent / "checkpoint").is_dir():
            steps.append((path.parent, manifest))
    return steps
