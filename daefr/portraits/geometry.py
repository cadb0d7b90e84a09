"""The head as a surface: where its features are, how light falls on it, how it turns.

The same formulas place the drawn features and the landmarks, so the landmarks are exact by construction.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from daefr.faces.template import TEMPLATE, fit_similarity
from daefr.portraits.canvas import CROP, EXTENT, MARGIN, Floats, floats
from daefr.portraits.traits import Traits

# Relief and pose are smooth fields: this many samples across the canvas carry them at every output size.
RELIEF_SIZE = EXTENT // 2
POSE_SIZE = CROP // 4

_PIVOT = floats([CROP / 2, 270.0])


@dataclass(frozen=True)
class FaceLayout:
    """Where the features of a frontal face are, in face coordinates; each centre is (x, y)."""

    eyes: tuple[tuple[float, float], tuple[float, float]]
    pupils: tuple[tuple[float, float], tuple[float, float]]
    nose: tuple[float, float]
    mouth: tuple[float, float]
    mouth_corners: tuple[tuple[float, float], tuple[float, float]]

    @property
    def landmarks(self) -> Floats:
        """The five points in the template's order, float32 (5, 2). An eye's point is its pupil."""
        return np.array([*self.pupils, self.nose, *self.mouth_corners], np.float32)


def lay_out(traits: Traits) -> FaceLayout:
    """Place the features of `traits` around the template."""
    middle = CROP / 2
    reach = 63 + traits.eye_spacing
    eyes = ((middle - reach, 240.0), (middle + reach, 240.0))
    (left_x, left_y), (right_x, right_y) = eyes
    gaze_x, gaze_y = traits.gaze
    half = 55 + traits.mouth_width + 6 * traits.smile
    corner_y = 371 - 5 * traits.smile + 2 * traits.mouth_open
    return FaceLayout(
        eyes=eyes,
        pupils=((left_x + gaze_x, left_y + gaze_y), (right_x + gaze_x, right_y + gaze_y)),
        nose=(middle, 314 + traits.nose_length),
        mouth=(middle, 371.0),
        mouth_corners=((middle - half, corner_y), (middle + half, corner_y)),
    )


def _bump(x: Floats, y: Floats, centre: tuple[float, float], spread: tuple[float, float]) -> Floats:
    """Gaussian hill of height 1; x (1, n) and y (n, 1) are crossed, so it costs one outer product."""
    across = np.exp(-(((x - centre[0]) / spread[0]) ** 2) / 2)
    down = np.exp(-(((y - centre[1]) / spread[1]) ** 2) / 2)
    return (down * across).astype(np.float32, copy=False)


def _axes(size: int) -> tuple[Floats, Floats]:
    """Face x (1, size) and y (size, 1) at the centres of a grid of `size` samples over the canvas."""
    line = ((np.arange(size, dtype=np.float32) + 0.5) * (EXTENT / size) - MARGIN).astype(np.float32)
    return line[None, :], line[:, None]


def relief(traits: Traits, layout: FaceLayout) -> Floats:
    """Height of the face towards the viewer in face units, float32 (RELIEF_SIZE, RELIEF_SIZE)."""
    x, y = _axes(RELIEF_SIZE)
    middle = CROP / 2
    radius = np.abs((x - middle) / (158 * traits.face_width)) ** 2.6 + np.abs((y - 258) / 240) ** 2.6
    height = 118 * np.sqrt(np.maximum(1 - radius, 0.015))
    nose_x, nose_y = layout.nose
    wide = traits.nose_width
    for side in (-1, 1):
        eye_x, eye_y = layout.eyes[(side + 1) // 2]
        height -= 15 * _bump(x, y, (eye_x - 4 * side, eye_y - 4), (34, 18))
        height += 5 * _bump(x, y, (eye_x, eye_y), (20, 10))
        height += 6 * _bump(x, y, (eye_x + 4 * side, eye_y - 34), (34, 9))
        height += (7 + 4 * traits.smile) * _bump(x, y, (middle + 88 * side, 308), (30, 24))
        height -= (5 + 4 * traits.age) * _bump(x, y, (middle + 92 * side, 372), (24, 34))
        height += 9 * _bump(x, y, (nose_x + 20 * side * wide, nose_y + 3), (8.5 * wide, 9))
    height += 17 * _bump(x, y, (nose_x, 268), (10 * wide, 34))
    height += 25 * _bump(x, y, (nose_x, nose_y), (15 * wide, 15))
    height += 7 * _bump(x, y, (middle, 366), (44, 26))
    height += 5 * _bump(x, y, (middle, 361), (26, 5)) + 7 * _bump(x, y, (middle, 382), (27, 7))
    height -= 6 * _bump(x, y, (middle, 404), (30, 8))
    height += 11 * _bump(x, y, (middle, 430 + traits.chin), (30, 20))
    return floats(height)


def light_on(height: Floats, traits: Traits) -> tuple[Floats, Floats]:
    """Light that a surface returns: diffuse float32 (n, n, 3) factors of its colour, and gloss float32 (n, n)."""
    slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=1 / 16)
    slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=1 / 16)
    length = np.sqrt(slope_x**2 + slope_y**2 + 1)
    flat = math.cos(traits.light_elevation)
    towards = floats(
        [
            math.sin(traits.light_azimuth) * flat,
            -math.sin(traits.light_elevation),
            math.cos(traits.light_azimuth) * flat,
        ]
    )
    facing = (-slope_x * towards[0] - slope_y * towards[1] + towards[2]) / length
    half = towards + floats([0, 0, 1])
    half /= np.linalg.norm(half)
    mirror = (-slope_x * half[0] - slope_y * half[1] + half[2]) / length
    # Light wraps past the terminator, as it does through skin; the sky and the room fill the rest.
    wrapped = np.clip((facing + 0.25) / 1.25, 0, 1)
    fill = traits.ambient * (0.75 + 0.25 / length - 0.15 * slope_y / length)
    linear = np.clip(fill + (1.22 - traits.ambient) * wrapped, 0.02, 1.4).astype(np.float32)
    # Display values go with about the square root of light; shadows on skin keep their red longest.
    base = np.log(linear)
    warm = floats([1 + 0.035 * traits.warmth, 1, 1 - 0.045 * traits.warmth])
    diffuse = np.stack([np.exp(base * power) for power in (0.46, 0.54, 0.58)], axis=2) * warm
    gloss = np.clip(mirror, 0, 1) ** 22
    return diffuse.astype(np.float32, copy=False), gloss.astype(np.float32, copy=False)


def _depth(x: Floats, y: Floats, layout: FaceLayout) -> Floats:
    """Distance towards the viewer by which points move when the head turns, in face units.

    Softer than `relief`: its slopes stay below one, so that a turned head never hides behind itself and
    `Pose.unproject` converges.
    """
    head = 112 * np.exp(-((((x - CROP / 2) / 142) ** 2) + ((y - 260) / 190) ** 2))
    nose_x, nose_y = layout.nose
    nose = 30 * np.exp(-((((x - nose_x) / 27) ** 2) + ((y - nose_y) / 40) ** 2))
    return floats(head + nose)


@dataclass(frozen=True)
class Pose:
    """Face coordinates to crop coordinates: turn the head, then align it as a real crop is aligned.

    `matrix` float64 (2, 3) is the similarity that follows the turn.
    """

    layout: FaceLayout
    yaw: float
    pitch: float
    matrix: NDArray[np.float64]

    def _turn(self, points: Floats) -> Floats:
        x, y = (points - _PIVOT)[..., 0], (points - _PIVOT)[..., 1]
        depth = _depth(points[..., 0], points[..., 1], self.layout)
        turned_x = x * math.cos(self.yaw) + depth * math.sin(self.yaw)
        back = depth * math.cos(self.yaw) - x * math.sin(self.yaw)
        turned_y = y * math.cos(self.pitch) + back * math.sin(self.pitch)
        return np.stack([turned_x, turned_y], axis=-1).astype(np.float32)

    def project(self, points: Floats) -> Floats:
        """Face points float32 (n, 2) to crop points float32 (n, 2)."""
        return (self._turn(points) @ self.matrix[:, :2].T + self.matrix[:, 2]).astype(np.float32)

    def unproject(self) -> tuple[Floats, Floats]:
        """Face x and y, float32 (POSE_SIZE, POSE_SIZE) each, that show at a grid over the crop.

        A fixed-point iteration: the depth at the present guess says where the point came from.
        """
        line = (np.arange(POSE_SIZE, dtype=np.float32) + 0.5) * (CROP / POSE_SIZE)
        crop = np.stack(np.meshgrid(line, line), axis=-1)
        inverse = np.linalg.inv(self.matrix[:, :2].astype(np.float64))
        turned = ((crop - self.matrix[:, 2]) @ inverse.T).astype(np.float32)
        x, y = turned[..., 0], turned[..., 1]
        for _ in range(10):
            depth = _depth(x + _PIVOT[0], y + _PIVOT[1], self.layout)
            x = floats((turned[..., 0] - depth * math.sin(self.yaw)) / math.cos(self.yaw))
            back = depth * math.cos(self.yaw) - x * math.sin(self.yaw)
            y = floats((turned[..., 1] - back * math.sin(self.pitch)) / math.cos(self.pitch))
        return (x + _PIVOT[0]).astype(np.float32), (y + _PIVOT[1]).astype(np.float32)


def pose_head(traits: Traits, layout: FaceLayout) -> Pose:
    """The pose of `traits`: turned, fitted to the template, then off by the small errors of a real alignment."""
    free = Pose(layout, traits.yaw, traits.pitch, np.eye(2, 3))
    fitted = fit_similarity(free.project(layout.landmarks), TEMPLATE)
    cosine, sine = traits.zoom * np.cos(traits.roll), traits.zoom * np.sin(traits.roll)
    wobble = np.array([[cosine, -sine], [sine, cosine]])
    centre = TEMPLATE.mean(axis=0)
    matrix = wobble @ fitted
    matrix[:, 2] += centre - wobble @ centre + np.array(traits.shift)
    return Pose(layout, traits.yaw, traits.pitch, matrix)
