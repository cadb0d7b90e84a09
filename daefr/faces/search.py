"""Every face of a photograph, whatever its size and turn, with landmarks that hold for turned faces too.

One look at a whole photograph has two limits. Faces that become small in it are lost, so finer looks follow. And the
detector gives a face that lies on its side or stands on its head the landmarks of an upright one, with no lower score
to speak of: so each face is looked at again alone, in four turns, of which the likeliest tells the upright one.
"""

import math
from collections.abc import Iterable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from daefr.faces.alignment import Matrix, warp
from daefr.faces.detected import DetectedFace
from daefr.images import Image

FINEST_SIDE = 1280
"""The long side, in pixels, of the finest look at a photograph; each has twice the side of the one before."""
SMALL = 80
"""Pixels of the largest face that a finer look is asked for: larger ones were found before, whole."""
MIN_CLOSE_SCORE = 0.9
"""Of a face that was looked at alone; there, true ones have 0.99 and more."""
MOST_FACES = 300
SAME_FACE_OVERLAP = 0.5
"""Two finds are one face when they share so much of the smaller one."""

CLOSE_SIDE = 160
"""Side, in pixels, of the look at one face."""
CLOSE_SHARE = 1.8
"""What that look shows, over the face's box."""
OFF_CENTRE = 0.2
TURNS = (0, 90, 180, 270)


class Looks(Protocol):
    """What the search needs of a detector."""

    side: int

    def detect(self, image: Image, side: int | None = None) -> list[DetectedFace]:
        """Return what one look at a photograph, shrunk to a long side, finds."""


def find_faces(detector: Looks, image: Image) -> list[DetectedFace]:
    """Return the faces of a photograph (H, W, 3) uint8 RGB from left to right; of a crowd, the 300 likeliest."""
    faces = _surely(detector, image, _look(detector, image))
    for quarters in _other_turns(faces):
        turned = np.ascontiguousarray(np.rot90(image, quarters))
        found = [_turned_back(face, quarters, *image.shape[:2]) for face in _look(detector, turned)]
        faces = _apart(faces + _surely(detector, image, found))
    return sorted(faces, key=lambda face: tuple(face.box.tolist()))


def _surely(detector: Looks, image: Image, found: list[DetectedFace]) -> list[DetectedFace]:
    """Return those faces that still are faces when they are looked at alone, each once."""
    closer = (_look_closer(detector, image, face) for face in _apart(found)[:MOST_FACES])
    return _apart(face for face in closer if face.score >= MIN_CLOSE_SCORE)


def _other_turns(faces: list[DetectedFace]) -> list[int]:
    """Return in which turns, in quarters, a photograph with these faces should be looked at too.

    A photograph that lies on its side has all faces on theirs, of which the small ones are not seen. One in which there
    is no face may lie anyhow.
    """
    quarters = {round(_roll(face.landmarks) / 90) % 4 for face in faces} if faces else {1, 2, 3}
    return sorted(quarters - {0})


def _turned_back(face: DetectedFace, quarters: int, height: int, width: int) -> DetectedFace:
    """Return where a face of a turned photograph is in the photograph itself, of height x width pixels."""
    corners, landmarks = face.box.reshape(2, 2), face.landmarks
    for quarter in reversed(range(quarters)):
        side = height if quarter % 2 else width
        corners, landmarks = (np.stack([side - points[:, 1], points[:, 0]], axis=1) for points in (corners, landmarks))
    box = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
    return DetectedFace(box.astype(np.float32), face.score, landmarks.astype(np.float32))


def _look(detector: Looks, image: Image) -> list[DetectedFace]:
    long = max(image.shape[:2])
    faces = detector.detect(image)
    side = detector.side
    while side < min(long, FINEST_SIDE):
        side *= 2
        scale = min(1.0, side / long)
        faces += [face for face in detector.detect(image, side) if _size(face) * scale <= SMALL]
    return faces


def _look_closer(detector: Looks, image: Image, face: DetectedFace) -> DetectedFace:
    """Return a face with the score and the landmarks of the likeliest turn; as it is when it is not found again."""
    best = _likeliest(_look_at(detector, image, face, turn) for turn in TURNS)
    if best is None:
        return face
    upright = _likeliest([_look_at(detector, image, face, _roll(best.landmarks))])
    return upright or best


def _look_at(detector: Looks, image: Image, face: DetectedFace, degrees: float) -> DetectedFace | None:
    """Look at one face alone, turned by `degrees`."""
    size = CLOSE_SHARE * _size(face)
    if size < 1:
        return None
    matrix = _turned(face, size, degrees)
    middle = CLOSE_SIDE / 2
    near = [
        seen
        for seen in detector.detect(warp(image, matrix, CLOSE_SIDE))
        if np.abs((seen.box[:2] + seen.box[2:]) / 2 - middle).max() <= OFF_CENTRE * CLOSE_SIDE
    ]
    seen = _likeliest(near)
    if seen is None:
        return None
    turn = np.linalg.inv(matrix[:, :2])
    landmarks = (seen.landmarks - matrix[:, 2]) @ turn.T
    return DetectedFace(face.box, seen.score, np.round(landmarks, 1).astype(np.float32))


def _turned(face: DetectedFace, size: float, degrees: float) -> Matrix:
    """Return the similarity that brings a square of `size` around a face to the look at it."""
    scale, angle = CLOSE_SIDE / size, math.radians(degrees)
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    turn = np.array([[cosine, sine], [-sine, cosine]])
    centre = (face.box[:2] + face.box[2:]).astype(np.float64) / 2
    return np.column_stack([turn, CLOSE_SIDE / 2 - turn @ centre])


def _roll(landmarks: npt.NDArray[np.float32]) -> float:
    """Return by how many degrees a face has to be turned for its mouth to be below its eyes."""
    down = landmarks[3:].mean(axis=0) - landmarks[:2].mean(axis=0)
    return -math.degrees(math.atan2(down[0], down[1]))


def _likeliest(faces: Iterable[DetectedFace | None]) -> DetectedFace | None:
    return max((face for face in faces if face is not None), key=lambda face: face.score, default=None)


def _apart(faces: Iterable[DetectedFace]) -> list[DetectedFace]:
    """Return the faces, likeliest first, without those that are one with a likelier one."""
    kept: list[DetectedFace] = []
    for face in sorted(faces, key=lambda face: -face.score):
        if all(_shared(face, other) < SAME_FACE_OVERLAP for other in kept):
            kept.append(face)
    return kept


def _shared(a: DetectedFace, b: DetectedFace) -> float:
    sides = np.minimum(a.box[2:], b.box[2:]) - np.maximum(a.box[:2], b.box[:2])
    smaller = min(np.prod(a.box[2:] - a.box[:2]), np.prod(b.box[2:] - b.box[:2]))
    return float(np.prod(np.maximum(sides, 0)) / max(smaller, 1e-6))


def _size(face: DetectedFace) -> float:
    return float((face.box[2:] - face.box[:2]).max())
