"""The five-point template of FFHQ, to which photographs are aligned, and the similarity that fits points to it."""

import numpy as np
from numpy.typing import NDArray

from daefr.settings.faces import CROP_SIDE

TEMPLATE: NDArray[np.float32] = np.array(
    [[192.98, 239.95], [318.90, 240.19], [256.63, 314.02], [201.26, 371.41], [313.09, 371.15]], np.float32
)
"""Five points of an aligned 512x512 crop, x and y: left eye, right eye, nose, left and right mouth corner."""


def template_landmarks(resolution: int) -> list[list[float]]:
    """Return where an aligned crop of `resolution` pixels has its five points, as far as the alignment says."""
    scaled: list[list[float]] = (TEMPLATE * (resolution / CROP_SIDE)).tolist()
    return scaled


def fit_similarity(source: NDArray[np.floating], target: NDArray[np.floating]) -> NDArray[np.float64]:
    """Least-squares rotation, scale and shift, float64 (2, 3), from points (n, 2) to others."""
    centre, goal = source.mean(axis=0), target.mean(axis=0)
    a, b = (source - centre).astype(np.float64), (target - goal).astype(np.float64)
    power = (a**2).sum()
    cosine = (a * b).sum() / power
    sine = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / power
    turn = np.array([[cosine, -sine], [sine, cosine]])
    return np.concatenate([turn, (goal - turn @ centre)[:, None]], axis=1)
