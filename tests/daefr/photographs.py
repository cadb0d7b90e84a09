"""Photographs of drawn portraits, whose landmarks are exact, and the detector that lies beside the project."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from daefr.faces.alignment import move_points
from daefr.faces.detected import DetectedFace
from daefr.images import Image
from daefr.portraits import Portrait, draw_portrait

SHARED = Path(__file__).resolve().parents[3] / "shared"
WEIGHTS = SHARED / "weights" / "retinaface_mobile025.pth"

needs_detector = pytest.mark.skipif(
    not WEIGHTS.is_file(), reason=f"there are no weights of a face detector at {WEIGHTS}"
)
needs_faces = pytest.mark.skipif(
    not (SHARED / "faces").is_dir(), reason=f"there are no real faces at {SHARED / 'faces'}"
)


def photograph(
    seed: int = 1, side: int = 900, *, degrees: float = 15.0, zoom: float = 1.1
) -> tuple[Image, DetectedFace]:
    """A square photograph with one portrait in its middle, turned and enlarged from 512 pixels, and where it is."""
    portrait = _portrait(seed)
    turn = cv2.getRotationMatrix2D((256, 256), degrees, zoom)
    turn[:, 2] += side / 2 - 256
    landmarks = move_points(portrait.landmarks, turn).astype(np.float32)
    pixels = turn.copy()
    pixels[:, 2] += turn[:, :2] @ (0.5, 0.5) - 0.5
    image = cv2.warpAffine(
        portrait.image, pixels, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
    )
    box = np.concatenate([landmarks.min(axis=0) - 40, landmarks.max(axis=0) + 40])
    return np.asarray(image, np.uint8), DetectedFace(box, 0.99, landmarks)


@cache
def _portrait(seed: int) -> Portrait:
    return draw_portrait(seed, 512)


@dataclass(frozen=True)
class Told:
    """A detector that finds what it is told."""

    faces: list[DetectedFace]

    def find(self, _: Image) -> list[DetectedFace]:
        return self.faces

    def detect(self, _: Image) -> list[DetectedFace]:
        return self.faces
