"""Packs a restoration checkpoint and the code that runs it as an MLflow model."""

import logging
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.pyfunc import save_model
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

import daefr
import degradations
from daefr.images import Image, encode_png
from daefr.settings.faces import MIN_FACE
from daefr.version import LICENSE, license_text
from pipelines.tracking.registry import Package

CHECKPOINT = "artifacts/checkpoint"
CODE = (daefr, degradations)
REQUIREMENTS = (
    "mlflow",
    "numpy",
    "opencv-python",
    "opencv-python-headless",
    "pandas",
    "pillow",
    "pydantic",
    "safetensors",
    "scipy",
    "torch",
    "torchvision",
    "webdataset",
    "facexlib",
    "spandrel",
    "tifffile",
    "tqdm",
)

SIGNATURE = ModelSignature(
    inputs=Schema(
        [ColSpec(DataType.binary, "image", required=False), ColSpec(DataType.string, "path", required=False)]
    ),
    outputs=Schema(
        [
            ColSpec(DataType.binary, "image", required=False),
            ColSpec(DataType.long, "faces"),
            ColSpec(DataType.string, "problem"),
        ]
    ),
    params=ParamSchema(
        [
            ParamSpec("aligned", DataType.boolean, False),
            ParamSpec("only_center_face", DataType.boolean, False),
            ParamSpec("upscale", DataType.long, 1),
            ParamSpec("pages", DataType.string, "first"),
        ]
    ),
)

# when a model is loaded, MLflow ignores keys that were not declared when it was saved
CONFIG = {**dict.fromkeys(("device", "detector", "parser", "upscaler")), "min_face": MIN_FACE}

USAGE = """Restores photographs, or with `aligned` square crops of faces:

    model = mlflow.pyfunc.load_model("models:/daefr-restoration@champion")
    model.predict(pandas.DataFrame({"path": ["face.png"]}), params={"aligned": True})

Instead of `path`, `image` takes a file's bytes (base64 in `mlflow models serve`). `model_config=` of `load_model` may
set the paths of `detector`, `parser` and `upscaler`, a `device`, and `min_face` in pixels. `daefr restore --model`
takes the directory `artifacts/checkpoint`."""


def pack(faces: Sequence[str], checkpoint: Path, target: Path) -> Package:
    """Write a model directory, which must not exist; `faces` are the sources of the training faces."""
    example = encode_png(_draw_gradient(64))
    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
    save_model(
        target,
        python_model=str(Path(__file__).with_name("model.py")),
        artifacts={"checkpoint": str(checkpoint)},
        code_paths=[str(Path(package.__path__[0])) for package in CODE],
        pip_requirements=requirements(),
        signature=SIGNATURE,
        model_config=CONFIG,
        input_example=(pd.DataFrame({"image": [example]}), {"aligned": True}),
        metadata={"license": license_note(faces)},
    )
    (target / LICENSE).write_text(license_text())
    return Package(str(target), CHECKPOINT, f"{USAGE}\n\n{license_note(faces)}")


def _draw_gradient(side: int) -> Image:
    """Return an image (side, side, 3) uint8 RGB; an input example does not need a face."""
    ramp = np.linspace(0, 255, side).astype(np.uint8)
    red, green = np.meshgrid(ramp, ramp)
    return np.stack([red, green, np.full_like(red, 128)], axis=2)


def requirements() -> list[str]:
    """Return the packages that restoring needs, in the versions of this environment."""
    return [f"{name}=={version(name)}" for name in REQUIREMENTS]


def license_note(faces: Sequence[str]) -> str:
    """Return a note on the terms of use of a model."""
    return (
        "Code: Apache-2.0 (LICENSE). Weights: trained on the faces of "
        f"{', '.join(faces)}; the terms of those images, and of any initial checkpoint, still apply."
    )
