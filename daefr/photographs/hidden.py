"""What transparency hides is not looked at: colours are spread into it from what is seen."""

import math

import cv2
import numpy as np
import numpy.typing as npt

from daefr.photographs.deep import Channel, Pixels

COARSE = 1024
"""Colours are spread in an image of this long side, whatever the photograph's."""
ROWS = 64
"""Of that image, which are worked on at a time, so that memory is bounded."""

Floats = npt.NDArray[np.float32]


def fade_hidden(pixels: Pixels, alpha: Channel) -> Pixels:
    """Return pixels (H, W, 3) that fade into the colours around them as their `alpha` (H, W) falls from its maximum."""
    return _blend(pixels, alpha, int(alpha.max()))


def fill_hidden(pixels: Pixels, alpha: Channel) -> Pixels:
    """Return pixels (H, W, 3), those whose `alpha` (H, W) is 0 in the colours around them."""
    return _blend(pixels, alpha, 1)


def _blend(pixels: Pixels, alpha: Channel, opaque: int) -> Pixels:
    """Give pixels the colours around them in the degree in which their alpha is below `opaque`."""
    if not alpha.any():
        return np.zeros_like(pixels)
    if alpha.min() >= opaque:
        return pixels
    height, width = alpha.shape
    block = math.ceil(max(height, width) / COARSE)
    around = np.rint(_spread(_shrink(pixels, alpha, opaque, block))).astype(pixels.dtype)
    result = np.asarray(cv2.resize(around, (width, height), interpolation=cv2.INTER_LINEAR), pixels.dtype)
    for rows in _strips(height, block):
        weight = _weight(alpha[rows], opaque)
        result[rows] = np.rint(pixels[rows] * weight + result[rows] * (1 - weight))
    return result


def _shrink(pixels: Pixels, alpha: Channel, opaque: int, block: int) -> Floats:
    """Average colours times weights, and weights, over blocks of pixels: (h, w, 4) float32."""
    height, width = alpha.shape
    parts: list[Floats] = []
    for rows in _strips(height, block):
        weight = _weight(alpha[rows], opaque)
        weighted = np.concatenate([pixels[rows] * weight, weight], axis=2)
        size = (math.ceil(width / block), math.ceil(len(weight) / block))
        parts.append(np.asarray(cv2.resize(weighted, size, interpolation=cv2.INTER_AREA), np.float32))
    return np.concatenate(parts)


def _spread(weighted: Floats) -> Floats:
    """Return colours (h, w, 3) of (h, w, 4): their own in the degree of their weight, else those of a coarser image."""
    height, width = weighted.shape[:2]
    colours, weight = weighted[..., :3], weighted[..., 3:]
    if max(height, width) == 1:
        return np.asarray(colours / weight)
    size = ((width + 1) // 2, (height + 1) // 2)
    coarser = _spread(np.asarray(cv2.resize(weighted, size, interpolation=cv2.INTER_AREA), np.float32))
    around = np.asarray(cv2.resize(coarser, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
    return colours + (1 - weight) * around


def _weight(alpha: Channel, opaque: int) -> Floats:
    return np.minimum(alpha[..., None] / np.float32(opaque), np.float32(1))


def _strips(height: int, block: int) -> list[slice]:
    step = ROWS * block
    return [slice(top, min(top + step, height)) for top in range(0, height, step)]
