"""What the filters of faces look at: how far a face is turned away, and how sharp its crop is."""

import math

import cv2
import numpy as np

from daefr.faces.alignment import Points
from daefr.faces.template import TEMPLATE
from daefr.images import Image

NOSE_DEPTH = 50.0
"""How far the tip of the nose stands before eyes and mouth, in pixels of the template, where the pupils are 126 apart:
25 mm on a face whose pupils are 63 mm apart."""
FACE_ROWS, FACE_COLUMNS = (0.39, 0.89), (0.25, 0.75)
"""The part of an aligned crop that is face, from brows to chin, as shares of its side."""


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
