"""What is behind the person, out of focus."""

import cv2
import numpy as np

from daefr.portraits.canvas import Floats, ellipse, floats
from daefr.portraits.traits import Traits

# Everything here is blurred, so a coarse painting enlarged is as good as a fine one.
_SIZE = 128


def draw_backdrop(traits: Traits, rng: np.random.Generator, size: int) -> Floats:
    """The backdrop as float32 RGB (size, size, 3) in [0, 1]."""
    line = (np.arange(_SIZE, dtype=np.float32) + 0.5) / _SIZE
    angle = rng.uniform(0, np.pi)
    ramp = (line[None, :] - 0.5) * np.cos(angle) + (line[:, None] - 0.5) * np.sin(angle) + 0.5
    ramp = np.clip(ramp, 0, 1)[..., None]
    near, far = floats(traits.backdrop_near), floats(traits.backdrop_far)
    image = np.ascontiguousarray(near + (far - near) * ramp, np.float32)
    if traits.backdrop == "bokeh":
        image = _bokeh(image, rng)
    elif traits.backdrop == "window":
        image = _window(image, rng)
    elif traits.backdrop == "wall":
        grain = cv2.resize(rng.standard_normal((48, 48), np.float32), (_SIZE, _SIZE), interpolation=cv2.INTER_CUBIC)
        image = image * (1 + 0.035 * grain[..., None])
    falloff = 1 - 0.35 * ((line[None, :] - 0.5) ** 2 + (line[:, None] - 0.5) ** 2)
    enlarged = cv2.resize(image * falloff[..., None], (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(enlarged, 0, 1).astype(np.float32)


def _bokeh(image: Floats, rng: np.random.Generator) -> Floats:
    """Out-of-focus lights and leaves: translucent discs over a blurred ground."""
    for _ in range(int(rng.integers(14, 40))):
        disc = np.zeros((_SIZE, _SIZE), np.float32)
        x, y = rng.uniform(0, _SIZE, 2)
        radius = rng.uniform(3, 13)
        cv2.fillPoly(disc, [np.round(ellipse((x, y), (radius, radius)) * 16).astype(np.int32)], 1.0, cv2.LINE_8, 4)
        colour = image[int(y) % _SIZE, int(x) % _SIZE] * rng.uniform(0.5, 1.8) + rng.uniform(-0.08, 0.12, 3)
        image = image + (np.clip(colour, 0, 1).astype(np.float32) - image) * disc[..., None] * np.float32(0.5)
    return cv2.GaussianBlur(image, (0, 0), 1.3).astype(np.float32)


def _window(image: Floats, rng: np.random.Generator) -> Floats:
    """Bright and dark upright shapes, as of windows, doors and shelves."""
    for _ in range(int(rng.integers(3, 8))):
        left, top = rng.integers(-20, _SIZE, 2)
        width, height = rng.integers(10, 50), rng.integers(30, 110)
        tone = float(rng.uniform(0.45, 1.6))
        image[max(top, 0) : top + height, max(left, 0) : left + width] *= tone
    return cv2.GaussianBlur(image, (0, 0), float(rng.uniform(1.2, 4))).astype(np.float32)
