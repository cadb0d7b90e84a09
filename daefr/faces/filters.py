"""Which faces of a photograph are worth training on: by score, size, place, pose and sharpness."""

import math
from typing import Annotated

import cv2
import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveInt

from daefr.data.images import Image
from daefr.faces.alignment import Points
from daefr.portraits import TEMPLATE
from daefr.settings.base import Settings

NOSE_DEPTH = 50.0
"""How far the tip of the nose stands before eyes and mouth, in pixels of the template, where the pupils are 126 apart:
25 mm on a face whose pupils are 63 mm apart."""
FACE_ROWS, FACE_COLUMNS = (0.39, 0.89), (0.25, 0.75)
"""The part of an aligned crop that is face, from brows to chin, as shares of its side."""


class FaceFilters(Settings):
    """What a face must be like. A reason's part before the colon is what it is counted under."""

    min_score: Annotated[float, Field(ge=0.5, le=1)] = Field(0.9, description="Confidence of the detector.")
    min_size: PositiveInt | None = Field(
        None,
        description="Side in pixels of the photograph's square that becomes the crop; by default the configured "
        "resolution, so that no crop is enlarged.",
    )
    max_outside: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1, description="Share of the crop that may lie outside of the photograph, where its mirror image is shown."
    )
    max_turn: Annotated[float, Field(gt=0, le=180)] = Field(
        45.0, description="Degrees that the face may look past the camera; 180 turns the filter off."
    )
    min_sharpness: NonNegativeFloat = Field(
        0.1, description="Of the crop, see `sharpness`: FFHQ has 0.2 to 0.5 at 512 pixels; 0 turns the filter off."
    )

    def against_face(self, score: float, size: float, out: float, turned: float, resolution: int) -> str | None:
        """Return why a face is not wanted, as far as can be told before its crop is cut; None if it is."""
        wanted = self.min_size or resolution
        if score < self.min_score:
            return f"low score: {score:.2f}, where {self.min_score:g} is wanted"
        if turned > self.max_turn:
            return f"turned away: {turned:.0f} degrees, where {self.max_turn:g} are allowed"
        if size < wanted:
            return f"too small: {size:.0f} pixels, where {wanted} are wanted"
        if out > self.max_outside:
            return f"cut off: {out:.0%} of the crop outside, where {self.max_outside:.0%} are allowed"
        return None

    def against_crop(self, sharp: float) -> str | None:
        """Return why a crop of that sharpness is not wanted; None if it is."""
        if sharp < self.min_sharpness:
            return f"blurred: sharpness {sharp:.2f}, where {self.min_sharpness:g} is wanted"
        return None


def turn(landmarks: Points) -> float:
    """Return the angle in degrees between where a face looks and the camera, from its five points (5, 2).

    The pose under a weak perspective: the least-squares affine projection of a mean face's points, the template with
    a nose that stands out; its axis is the cross product of the projection's rows. A coarse measure: landmarks that
    are off by a twentieth of the face change it by some 10 degrees. Rotation in the image plane does not count.
    """
    face = np.concatenate([TEMPLATE - TEMPLATE.mean(axis=0), [[0], [0], [NOSE_DEPTH], [0], [0]]], axis=1)
    projection = np.linalg.lstsq(np.column_stack([face, np.ones(len(face))]), np.asarray(landmarks), rcond=None)[0]
    axis = np.cross(projection[:3, 0], projection[:3, 1])
    return math.degrees(math.acos(np.clip(axis[2] / max(float(np.linalg.norm(axis)), 1e-12), -1, 1)))


def sharpness(crop: Image) -> float:
    """Return how sharp the face of an aligned crop (S, S, 3) is: the deviation of the Laplacian over that of the grays.

    The usual variance of the Laplacian, but free of contrast, so that neither exposure nor the colour of the skin has a
    say. It grows as a crop is shrunk, as what is small can be no sharper than its pixels.
    """
    gray = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    (top, bottom), (left, right) = (
        (round(start * len(gray)), round(end * len(gray))) for start, end in (FACE_ROWS, FACE_COLUMNS)
    )
    face = gray[top:bottom, left:right]
    return float(cv2.Laplacian(face, cv2.CV_64F).std() / max(float(face.std()), 1.0))
