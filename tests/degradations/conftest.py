"""Faces: a synthetic one that is always there, and the golden figures where they are at hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from degradations import decode_image
from degradations.images import Uint8Image

SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.fixture(scope="session")
def face() -> Uint8Image:
    """(512, 512, 3): gradients, an edge and texture."""
    y, x = np.mgrid[0:512, 0:512].astype(np.float32)
    image = np.stack([x / 2, y / 2, 128 + 60 * np.sin(x / 9) * np.cos(y / 13)], axis=-1)
    image[180:330, 150:360] += (70, -50, 30)
    return np.asarray(np.clip(image, 0, 255), dtype=np.uint8)


@pytest.fixture(scope="session")
def golden() -> dict[str, Any]:
    path = SHARED / "reference" / "golden_metrics.json"
    if not path.exists():
        pytest.skip(f"no golden figures of the reference at {path}")
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


@pytest.fixture(scope="session")
def golden_faces(golden: dict[str, Any]) -> dict[str, Uint8Image]:
    """The faces that the golden figures were measured on, by file name."""
    folder = SHARED / "faces" / "val"
    if not folder.exists():
        pytest.skip(f"no faces at {folder}")
    return {row["image"]: decode_image((folder / row["image"]).read_bytes()) for row in golden["images"]}
