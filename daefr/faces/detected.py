"""A face that was found."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class DetectedFace:
    """A face in a photograph, in pixels of it.

    `box`: (x0, y0, x1, y1) float32. `score`: the detector's confidence, 0.5 to 1. `landmarks`: (5, 2) float32, the
    five points in the order of `daefr.faces`. The box and the points may lie outside of the photograph.
    """

    box: npt.NDArray[np.float32]
    score: float
    landmarks: npt.NDArray[np.float32]
