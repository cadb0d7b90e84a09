"""Finding a restoration model by what a user has at hand: a checkpoint, a released file, a run, a download of MLflow's.

Free of PyTorch, so that a wrong path is reported at once. Of a run directory it knows no more than that a step's folder
`steps/NAME-FINGERPRINT` has a `manifest.json` once the step is finished.
"""

import json
from pathlib import Path
from typing import Any

from daefr.errors import UserError
from daefr.files import expand_home

STAGE = "restoration"
CHECKPOINT_CONFIG = "config.json"
MLFLOW_MODEL, MLFLOW_CHECKPOINT = "MLmodel", "artifacts/checkpoint"
VALID = "a checkpoint directory, a released .ckpt file, a run directory, or a model directory downloaded from MLflow"


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
    if path.is_file() or (path / CHECKPOINT_CONFIG).is_file():
        return path
    if (path / MLFLOW_MODEL).is_file() and (path / MLFLOW_CHECKPOINT).is_dir():
        return path / MLFLOW_CHECKPOINT
    if (path / "steps").is_dir():
        return _newest_of_run(path)
    raise UserError(f"{path} holds no model; a model is {VALID}")


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
