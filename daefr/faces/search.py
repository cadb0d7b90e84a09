"""Every face of a photograph, whatever its size and turn, with landmarks that hold for turned faces too.

One look at a whole photograph has two limits. Faces that become small in it are lost, so finer looks follow, in tiles
where the photograph is too large for one. And the detector gives a face that lies on its side or stands on its head the
landmarks of an upright one, with no lower score to speak of: so each face is looked at again alone, in four turns, of
which the likeliest tells the upright one.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from daefr.faces.alignment import Matrix, warp
from daefr.faces.detected import DetectedFace
from daefr.images import Image
from daefr.settings.faces import MIN_FACE

VISIBLE = 24
"""Pixels that a face needs in a look to be found for sure; of those of 16, about half are."""
MEASURED = 0.9
"""Boxes are no more exact than that: what is by so much smaller than the smallest face is taken too."""
TILE = 1280
"""The long side, in pixels, of what is looked at at once."""
OVERLAP = 128
"""Pixels that neighbouring tiles share, so that a small face is whole in one of them, with its surroundings."""
SMALL = 80
"""Pixels of the largest face that a finer look is asked for: larger ones were found before, whole."""
MIN_CLOSE_SCORE = 0.9
"""Of a face that was looked at alone; there, true ones have 0.99 and more."""
MOST_FACES = 300
MOST_CANDIDATES = 1000
SAME_FACE_OVERLAP = 0.5
"""Two finds are one face when they share so much of the smaller one."""

CLOSE_SIDE = 160
"""Side, in pixels, of the look at one face."""
CLOSE_SHARE = 1.8
"""What that look shows, over the face's box."""
OFF_CENTRE = 0.2
TURNS = (0, 90, 180, 270)

Span = tuple[int, int]


class Looks(Protocol):
    """What the search needs of a detector."""

    side: int

    def detect(self, image: Image, side: int | None = None) -> list[DetectedFace]:
        """Return what one look at a photograph, shrunk to a long side, finds."""


def find_faces(detector: Looks, image: Image, min_face: int = MIN_FACE) -> list[DetectedFace]:
    """Return the faces of a photograph (H, W, 3) uint8 RGB from left to right; of a crowd, the 300 likeliest.

    `min_face`: the longer side, in pixels, of the box of the smallest face that is looked for. Up to 24, every pixel is
    looked at; twice as large a face costs a quarter of the time.
    """
    scales = _scales(max(image.shape[:2]), detector.side, min_face)
    faces = _search(detector, image, 0, scales)
    if not faces:  # it may lie anyhow, which its larger faces tell
        coarse = [scale for scale in scales if scale * max(image.shape[:2]) <= TILE]
        faces = [face for quarters in (1, 2, 3) for face in _search(detector, image, quarters, coarse)]
    # a photograph that lies on its side has all faces on theirs, of which the small ones are not seen
    for quarters in sorted({round(_roll(face.landmarks) / 90) % 4 for face in faces} - {0}):
        faces = _apart(faces + _search(detector, image, quarters, scales))
    return sorted(
        (face for face in faces if _size(face) >= MEASURED * min_face), key=lambda face: tuple(face.box.tolist())
    )


def _scales(long: int, coarsest: int, min_face: int) -> list[float]:
    """Return by how much a photograph of that long side is shrunk for each look: first to `coarsest` pixels.

    The finest shows the smallest face at `VISIBLE` pixels; before it, each shows half as much as the next.
    """
    first, scales = min(1.0, coarsest / long), [min(1.0, VISIBLE / min_face)]
    while scales[-1] / 2 > first:
        scales.append(scales[-1] / 2)
    return [first, *(scale for scale in reversed(scales) if scale > first)]


def _search(detector: Looks, image: Image, quarters: int, scales: Sequence[float]) -> list[DetectedFace]:
    """Return the faces that looks at a photograph, turned by quarters, find, each once.

    Only those count that still are faces when they are looked at alone.
    """
    found = [
        face
        for index, scale in enumerate(scales)
        for face in _look(detector, image, quarters, scale)
        if index == 0 or _size(face) * scale <= SMALL
    ]
    closer = (_look_closer(detector, image, face) for face in _apart(found)[:MOST_CANDIDATES])
    sure = (face for face in closer if face.score >= MIN_CLOSE_SCORE)
    return _apart(itertools.islice(sure, MOST_FACES))


def _look(detector: Looks, image: Image, quarters: int, scale: float) -> list[DetectedFace]:
    """Look at a photograph that is shrunk by `scale` and turned, in tiles. What an inner edge cuts is left out."""
    rows, columns = (_spans(length, scale) for length in image.shape[:2])
    size, found = np.array(image.shape[1::-1]), []
    for (top, bottom), (left, right) in itertools.product(rows, columns):
        tile = image[top:bottom, left:right]
        small = _shrunk(tile, scale)
        enlarge = np.array(tile.shape[1::-1]) / small.shape[1::-1]
        start, stop = np.array([left, top]), np.array([right, bottom])
        for seen in detector.detect(np.ascontiguousarray(np.rot90(small, quarters)), max(small.shape[:2])):
            face = _turned_back(seen, quarters, *small.shape[:2])
            box = (face.box.reshape(2, 2) * enlarge + start).round(1).astype(np.float32)
            if not (((box[0] <= start) & (start > 0)) | ((box[1] >= stop) & (stop < size))).any():
                landmarks = (face.landmarks * enlarge + start).round(1).astype(np.float32)
                found.append(DetectedFace(box.reshape(4), face.score, landmarks))
    return found


def _spans(length: int, scale: float) -> list[Span]:
    """Return where tiles begin and end along a photograph's side, in its pixels: equally long ones that overlap."""
    tile, overlap = TILE / scale, OVERLAP / scale
    count = 1 if length <= tile else math.ceil((length - overlap) / (tile - overlap))
    step = (length - overlap) / count
    return [(round(index * step), min(length, round((index + 1) * step + overlap))) for index in range(count)]


def _shrunk(image: Image, scale: float) -> Image:
    if scale == 1:
        return image
    height, width = (max(1, round(length * scale)) for length in image.shape[:2])
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _turned_back(face: DetectedFace, quarters: int, height: int, width: int) -> DetectedFace:
    """Return where a face of a turned photograph is in the photograph itself, of height x width pixels."""
    corners, landmarks = face.box.reshape(2, 2), face.landmarks
    for quarter in reversed(range(quarters)):
        side = height if quarter % 2 else width
        corners, landmarks = (np.stack([side - points[:, 1], points[:, 0]], axis=1) for points in (corners, landmarks))
    box = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
    return DetectedFace(box.astype(np.float32), face.score, landmarks.astype(np.float32))


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
    ordered = sorted(faces, key=lambda face: -face.score)
    boxes = np.array([face.box for face in ordered]).reshape(-1, 4)
    kept: list[int] = []
    for index, box in enumerate(boxes):
        if (_shared(box, boxes[kept]) < SAME_FACE_OVERLAP).all():
            kept.append(index)
    return [ordered[index] for index in kept]


def _shared(box: npt.NDArray[np.float32], boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return how much of the smaller one a box (4,) and each of others (n, 4) share."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    smaller = np.minimum(np.prod(box[2:] - box[:2]), np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
    return np.asarray(np.prod(np.maximum(sides, 0), axis=1) / np.maximum(smaller, 1e-6))


def _size(face: DetectedFace) -> float:
    return float((face.box[2:] - face.box[:2]).max())
