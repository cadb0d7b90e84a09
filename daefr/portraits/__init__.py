"""Drawn portraits: a deterministic source of varied aligned faces with exact landmarks, needing no download.

A seed fixes the `Traits`; they are painted as an upright frontal head, which is then turned in depth, aligned
to the five-point template as a real crop is, and laid over a backdrop.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from daefr.portraits import face, hair
from daefr.portraits.backdrop import draw_backdrop
from daefr.portraits.canvas import CROP, MARGIN, Canvas, Floats, floats
from daefr.portraits.geometry import FaceLayout, Pose, lay_out, pose_head
from daefr.portraits.traits import Traits, sample_traits

__all__ = ["Portrait", "draw_portrait"]

# Small outputs are painted at least this large and averaged down, so that their fine detail does not alias.
_LEAST_PAINTED_SIDE = 256


@dataclass(frozen=True)
class Portrait:
    """An aligned face and its five points.

    `image` is uint8 RGB (side, side, 3). `landmarks` is float32 (5, 2), x and y in pixels where the image spans
    [0, side], in the order left eye, right eye, nose, left and right mouth corner; left is the smaller x.
    """

    image: NDArray[np.uint8]
    landmarks: Floats


def draw_portrait(seed: int, side: int) -> Portrait:
    """Portrait number `seed` (0 or more) as a square of `side` pixels.

    The same arguments give the same bytes, and one seed shows the same face at every side.
    """
    if seed < 0 or side < 1:
        raise ValueError(f"a portrait needs a seed of 0 or more and a side of 1 or more, not seed {seed}, side {side}")
    traits = sample_traits(seed)
    layout = lay_out(traits)
    pose = pose_head(traits, layout)
    painted_side = side * max(1, -(-_LEAST_PAINTED_SIDE // side))
    canvas = _paint_person(traits, layout, painted_side / CROP)
    # The backdrop has a generator of its own: what the person wears does not change it.
    backdrop = draw_backdrop(traits, np.random.default_rng([traits.texture_seed, 1]), painted_side)
    image = _compose(canvas, pose, backdrop)
    if painted_side != side:
        image = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32, copy=False)
    landmarks = pose.project(layout.landmarks) * np.float32(side / CROP)
    return Portrait(np.round(np.clip(image, 0, 1) * 255).astype(np.uint8), landmarks)


def _paint_person(traits: Traits, layout: FaceLayout, scale: float) -> Canvas:
    """The frontal person, back to front; `scale` is canvas pixels a face unit."""
    rng = np.random.default_rng([traits.texture_seed, 0])
    canvas = Canvas(scale)
    hair.paint_back_hair(canvas, traits, rng)
    face.paint_neck_and_clothes(canvas, traits, rng)
    face.paint_ears(canvas, traits)
    head = face.paint_skin(canvas, traits, layout, rng)
    face.paint_nose(canvas, traits, layout)
    face.paint_beard(canvas, traits, layout, head, rng)
    face.paint_mouth(canvas, traits, layout, rng)
    face.paint_eyes(canvas, traits, layout, rng)
    face.paint_brows(canvas, traits, layout, rng)
    hair.paint_front_hair(canvas, traits, rng)
    face.paint_glasses(canvas, traits, layout)
    return canvas


def _compose(canvas: Canvas, pose: Pose, backdrop: Floats) -> Floats:
    """Turn and align the person and lay it over `backdrop`; float32 RGB of the backdrop's shape."""
    side = backdrop.shape[0]
    x, y = (
        cv2.resize((field + MARGIN) * np.float32(canvas.scale) - np.float32(0.5), (side, side)).astype(np.float32)
        for field in pose.unproject()
    )
    # Resampled at 8 bits, several times faster than floats and as fine as the result.
    parts = (np.clip(canvas.image, 0, 1), canvas.cover)
    colour, cover = ((part * 255 + np.float32(0.5)).astype(np.uint8) for part in parts)
    turned = cv2.remap(colour, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    shown = cv2.remap(cover, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    free = 1 - shown[..., None] * np.float32(1 / 255)
    return floats(backdrop * free + turned * np.float32(1 / 255))
