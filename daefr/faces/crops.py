"""Every face of a photograph as an aligned crop, or the reason why not."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from daefr.errors import UserError
from daefr.faces.alignment import Matrix, alignment_matrix, move_points, outside, scale_of, warp
from daefr.faces.detected import DetectedFace
from daefr.faces.detector import Detector
from daefr.faces.quality import sharpness, turn
from daefr.faces.rejection import Rejection
from daefr.images import Image, shrink
from daefr.photographs import read_photograph
from daefr.settings.faces import CROP_SIDE, FaceFilters
from daefr.settings.images import MAX_PIXELS

NO_FACE = "no face"


@dataclass(frozen=True)
class AlignedFace:
    """An aligned face: (R, R, 3) uint8 RGB, its landmarks (5, 2) in pixels of the crop, and where it comes from.

    `matrix` brings points of the photograph to the crop. `size` is the side, in pixels of the photograph, of the square
    that became the crop; `turn` is in degrees.
    """

    image: Image
    landmarks: npt.NDArray[np.float64]
    matrix: Matrix
    face: DetectedFace
    size: float
    turn: float
    sharpness: float

    @property
    def facts(self) -> dict[str, Any]:
        """What a sample tells of the way from its photograph, as JSON has it."""
        return {
            "box": [round(float(edge), 1) for edge in self.face.box],
            "score": self.face.score,
            "size": round(self.size, 1),
            "turn": round(self.turn, 1),
            "sharpness": round(self.sharpness, 4),
            "matrix": self.matrix.tolist(),
        }


@dataclass(frozen=True)
class AlignmentResult:
    """What became of a photograph: its crops by name, and a rejection for every other face, or for want of any.

    `pages_left` is how many pages or frames after the first were not looked at.
    """

    crops: dict[str, AlignedFace]
    rejected: list[Rejection]
    faces: int
    """How many were found."""
    pages_left: int = 0


class Aligner:
    """Makes crops of photographs."""

    def __init__(
        self,
        detector: Detector,
        filters: FaceFilters | None = None,
        resolution: int = CROP_SIDE,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        """Make crops of `resolution` pixels; raises `UserError` when that is more than crops can have."""
        if not 1 <= resolution <= CROP_SIDE:
            raise UserError(f"crops of photographs have 1 to {CROP_SIDE} pixels, not {resolution}")
        self._detector, self._filters = detector, filters or FaceFilters()
        self._resolution, self._max_pixels = resolution, max_pixels

    def __call__(self, data: bytes, name: str) -> AlignmentResult:
        """Read an image file and return the faces in it, named `NAME#0` and so on from left to right.

        Of several pages or frames, the first is looked at. Crops are sRGB. A name does not depend on what the filters
        let pass. Raises `ImageError`, a `ValueError`, when the file is no readable image or has too many pixels.
        """
        photograph = read_photograph(data, self._max_pixels)
        image = photograph.srgb
        faces = self._detector.find(image)
        rejected = [] if faces else [Rejection(source=name, reason=NO_FACE)]
        found = AlignmentResult({}, rejected, len(faces), photograph.page_count - 1)
        for index, face in enumerate(faces):
            result = self._cut(image, face)
            if isinstance(result, str):
                found.rejected.append(Rejection(source=f"{name}#{index}", reason=result))
            else:
                found.crops[f"{name}#{index}"] = result
        return found

    def _cut(self, image: Image, face: DetectedFace) -> AlignedFace | str:
        """Return the crop of a face, or why it is rejected."""
        matrix = alignment_matrix(face.landmarks, CROP_SIDE)
        size, turned = CROP_SIDE / scale_of(matrix), turn(face.landmarks)
        out = outside(matrix, CROP_SIDE, *image.shape[:2])
        objection = self._filters.against_face(face.score, size, out, turned, self._resolution)
        if objection is not None:
            return objection
        crop = shrink(warp(image, matrix, CROP_SIDE), self._resolution)
        sharp = sharpness(crop)
        objection = self._filters.against_crop(sharp)
        if objection is not None:
            return objection
        matrix = matrix * (self._resolution / CROP_SIDE)
        return AlignedFace(crop, move_points(face.landmarks, matrix), matrix, face, size, turned, sharp)
