"""From a photograph to an aligned crop and back: the similarity that brings five points to the template."""

import math

import cv2
import numpy as np
import numpy.typing as npt

from daefr.faces.template import fit_similarity, template_landmarks
from daefr.images import Image, shrink
from daefr.settings.faces import CROP_SIDE

FINEST = 8
"""A crop is sampled at most so many times finer than its pixels, which is as fine as a photograph in which it would
have 4096 pixels."""

Matrix = npt.NDArray[np.float64]
"""(2, 3): a point p of the photograph is at matrix[:, :2] @ p + matrix[:, 2] in the crop."""
Points = npt.NDArray[np.floating]
"""(n, 2): x and y in pixels, see `daefr.faces`."""


def align(image: Image, landmarks: Points, side: int = CROP_SIDE) -> tuple[Image, Matrix]:
    """Cut an aligned crop out of a photograph.

    Args:
        image: (H, W, 3) uint8 RGB.
        landmarks: the five points of a face in it, (5, 2).
        side: of the crop, in pixels.

    Returns:
        The crop, (side, side, 3) uint8 RGB, in which the points are as near to the template as rotating, scaling and
        shifting brings them, and the matrix that does so. Beyond the photograph's border the crop shows its mirror
        image.

    """
    matrix = alignment_matrix(landmarks, side)
    return warp(image, matrix, side), matrix


def alignment_matrix(landmarks: Points, side: int) -> Matrix:
    """Return the similarity that is the least-squares fit of five points (5, 2) to the template of a crop."""
    template = np.asarray(template_landmarks(side), np.float64)
    return fit_similarity(np.asarray(landmarks, np.float64), template)


def scale_of(matrix: Matrix) -> float:
    """Return how many pixels of the crop one of the photograph becomes."""
    return math.hypot(matrix[0, 0], matrix[1, 0])


def outside(matrix: Matrix, side: int, height: int, width: int) -> float:
    """Return the share of a crop that shows what is outside of its photograph of height x width pixels, 0 to 1."""
    photograph = np.array([[0, 0], [width, 0], [width, height], [0, height]])
    crop = np.array([[0, 0], [side, 0], [side, side], [0, side]], np.float32)
    shown, _ = cv2.intersectConvexConvex(move_points(photograph, matrix).astype(np.float32), crop)
    return max(0.0, 1 - shown / side**2)


def warp(image: Image, matrix: Matrix, side: int) -> Image:
    """Sample the crop (side, side, 3) that a similarity makes of a photograph, without aliasing when it shrinks it."""
    finer = max(1, min(FINEST, math.ceil(1 / scale_of(matrix))))
    fine = matrix * finer
    # OpenCV counts from the middle of the first pixel
    fine[:, 2] += fine[:, :2] @ (0.5, 0.5) - 0.5
    size = (side * finer, side * finer)
    crop = cv2.warpAffine(image, fine, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    return shrink(np.asarray(crop, np.uint8), side)


def move_points(points: Points, matrix: Matrix) -> npt.NDArray[np.float64]:
    """Return where points (n, 2) of the photograph are in the crop."""
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2], np.float64)
