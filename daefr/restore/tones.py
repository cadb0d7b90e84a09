"""The tone of a monochrome picture, such as gray, sepia, cyanotype or a split tone: its colours by their lightness.

A network that learned from colours gives every face skin and lips. In a monochrome photograph all colours lie on one
curve over lightness, so a face whose colours do so keeps that curve.

Single pixels do not tell: JPEG stores colours coarsely, and where a photograph is noisy so are they. What is left of
both is the mean over some pixels, which is that of the curve over the same pixels. So the curve is fitted to means.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from daefr.images import Image

KNOTS = np.linspace(0, 255, 9, dtype=np.float32)
"""Lightnesses between which the curve is straight."""
CELL = 16
"""Side, in pixels of the photograph, of the squares over which colours are averaged: that of a JPEG's colours."""
LEAST_CELLS, MOST_CELLS = 6, 16
"""Along the side of a crop."""
FACE_ROWS, FACE_COLUMNS = (0.25, 0.92), (0.2, 0.8)
"""The part of a crop that is judged, as shares of its side: frames, stamps and clothes are around it."""
SHARE = 0.9
LIMIT = 4.0
"""By how much, in levels of 255, that share of a monochrome face's means deviates at most from its curve; by more where
they are over less than a square of a JPEG's colours."""
LEVEL, SMOOTH, SUPPLE = 0.01, 0.2, 0.02
"""How much a curve prefers to go on level where the crop has no such lightness, and to have no bends: few when a face
is judged, as a coloured one could be followed by a curve of many, and more in the tone that is kept."""
ROUNDS = 3

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Tone:
    """The tone of a monochrome face.

    `curve`: (9, 2), how far red and blue are from the lightness, at `KNOTS`. `foreign`: (S, S, 2), likewise how far the
    colours of the crop are from the curve where that is more than noise, as on a frame or a stamp.
    """

    curve: Floats
    foreign: Floats

    def apply(self, image: Image) -> Image:
        """Return a restored crop (S, S, 3) uint8 RGB with its own lightness and the colours of the tone."""
        light = image.astype(np.float32) @ LUMA
        red, blue = np.moveaxis(_on_curve(self.curve, light) + self.foreign, 2, 0)
        green = -(LUMA[0] * red + LUMA[2] * blue) / LUMA[1]
        toned = light[..., None] + np.stack([red, green, blue], axis=2)
        return np.asarray(np.clip(np.rint(toned), 0, 255), np.uint8)


def find_tone(crop: Image, scale: float) -> Tone | None:
    """Return the tone of the face in a crop (S, S, 3) uint8 RGB, or None when it is coloured.

    `scale`: how many pixels of the crop one of the photograph has become.
    """
    pixels = crop.astype(np.float32)
    light = pixels @ LUMA
    colours = pixels[..., ::2] - light[..., None]
    cells = min(len(crop), int(np.clip(len(crop) / (scale * CELL), LEAST_CELLS, MOST_CELLS)))
    between = np.maximum(0, 1 - np.abs(light[..., None] - KNOTS) / (KNOTS[1] - KNOTS[0]))
    mean_between, mean_colours = _means(between, cells), _means(colours, cells)
    face = np.zeros((cells, cells), bool)
    face[_span(FACE_ROWS, cells), _span(FACE_COLUMNS, cells)] = True
    limit = LIMIT * max(1, CELL * scale * cells / len(crop)) ** (1 / 3)
    weights = face.astype(np.float32)
    for _ in range(ROUNDS):
        curve = _fit(mean_between, mean_colours, weights, SMOOTH)
        deviation = np.linalg.norm(mean_colours - mean_between @ curve, axis=2)
        # what is around the face counts where it agrees, which a frame does not
        weights = np.maximum(0, 1 - (deviation / (3 * limit)) ** 2)
    if np.quantile(deviation[face], SHARE) > limit:
        return None
    curve = _fit(mean_between, mean_colours, weights, SUPPLE)
    # where it is beyond doubt, and up to the edge of what is so
    much = cv2.dilate(np.clip(deviation / limit - 2, 0, 1).astype(np.float32), np.ones((3, 3)))
    weight = cv2.resize(much, light.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return Tone(curve, np.asarray(weight[..., None] * (colours - _on_curve(curve, light)), np.float32))


def _span(shares: tuple[float, float], cells: int) -> slice:
    start = min(cells - 1, round(shares[0] * cells))
    return slice(start, max(start + 1, round(shares[1] * cells)))


def _fit(between: Floats, colours: Floats, weights: Floats, smooth: float) -> Floats:
    """Return the curve (9, 2) that is nearest to mean colours (cells, cells, 2).

    `between`: (cells, cells, 9), how much each knot has of each mean.
    """
    each = len(between) * np.eye(len(KNOTS), dtype=np.float32)
    steady = np.concatenate([LEVEL * np.diff(each, axis=0), smooth * np.diff(each, 2, axis=0)])
    equations = np.concatenate([(weights[..., None] * between).reshape(-1, len(KNOTS)), steady])
    values = np.concatenate([(weights[..., None] * colours).reshape(-1, 2), np.zeros((len(steady), 2), np.float32)])
    return np.asarray(np.linalg.lstsq(equations, values, rcond=None)[0], np.float32)


def _means(values: Floats, cells: int) -> Floats:
    """Return the means (cells, cells, n) over squares of (S, S, n)."""
    starts = np.arange(cells) * len(values) // cells
    sides = np.diff(starts, append=len(values))
    sums = np.add.reduceat(np.add.reduceat(values, starts, axis=0), starts, axis=1)
    return np.asarray(sums / np.outer(sides, sides)[..., None], np.float32)


def _on_curve(curve: Floats, light: Floats) -> Floats:
    return np.stack([np.interp(light, KNOTS, values) for values in curve.T], axis=2).astype(np.float32)
