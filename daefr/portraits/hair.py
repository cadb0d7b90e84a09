"""Hair: a mask with a ragged edge, filled with a field of strands that follows the style's flow."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from daefr.portraits.canvas import CROP, EXTENT, Canvas, Floats, Stencil, floats, mirrored, noise, smooth_curve
from daefr.portraits.geometry import RELIEF_SIZE
from daefr.portraits.traits import HairStyle, Traits

_MIDDLE = CROP / 2
_TEXTURE_COLUMNS = 2048
_JAW = 400


@dataclass(frozen=True)
class Cut:
    """The shape of a hair style, lengths in face units.

    `hairline` is the y where the forehead ends and `recede` how far it climbs down to the temples;
    `side_end` is the y where the hair beside the face ends, `cover` how far it reaches over the cheek;
    `back_end` is the y where the hair behind the neck ends (0: none shows) and `spread` its width there;
    `volume` lifts the outline; `radial` bends the strands, from 0, straight down, to 1, away from the parting;
    `wave` and `curl` are strengths.
    """

    hairline: float
    recede: float
    side_end: float
    cover: float
    back_end: float
    spread: float
    volume: float
    radial: float
    wave: float
    curl: float


CUTS: dict[HairStyle, Cut] = {
    "buzz": Cut(104, 30, 232, 2, 0, 0, -6, 0.6, 0.0, 0.5),
    "short": Cut(112, 26, 245, 4, 0, 0, 4, 0.5, 0.3, 0.1),
    "swept": Cut(100, 34, 240, 4, 0, 0, 16, 0.85, 0.5, 0.1),
    "fringe": Cut(176, 14, 275, 12, 0, 0, 8, 0.12, 0.4, 0.0),
    "bob": Cut(120, 50, 420, 20, 440, 4, 12, 0.5, 0.3, 0.0),
    "long": Cut(108, 62, 640, 14, 660, 26, 6, 0.5, 0.4, 0.0),
    "wavy": Cut(110, 56, 640, 20, 660, 44, 12, 0.5, 2.2, 0.2),
    "curly": Cut(120, 44, 300, 16, 400, 12, 26, 0.6, 2.0, 1.2),
    "afro": Cut(112, 36, 270, 10, 340, 16, 46, 0.9, 0.6, 2.2),
    "bun": Cut(98, 48, 250, 4, 0, 0, 0, 0.9, 0.1, 0.0),
}


def _crown(cut: Cut, traits: Traits) -> list[tuple[float, float]]:
    """Right half of the outline from the top of the head to the ear."""
    lift = cut.volume + (traits.hair_volume if cut.volume >= 0 else 0)
    wide = 150 * traits.face_width
    return [
        (24, 17 - lift),
        (88, 42 - 0.9 * lift),
        (wide - 14 + 0.5 * lift, 108 - 0.5 * lift),
        (wide + 3 + 0.55 * lift, 185),
        (wide + 2 + 0.5 * lift, 245),
    ]


def _front_outline(cut: Cut, traits: Traits) -> Floats:
    wide = 150 * traits.face_width
    if cut.side_end > _JAW:
        end = [(wide + 6 + 0.5 * cut.spread, (245 + cut.side_end) / 2), (wide + cut.spread, cut.side_end)]
        inner = [(wide - cut.cover - 18, cut.side_end)]
    else:
        end, inner = [(wide - 8, cut.side_end)], [(wide - 20, cut.side_end - 3)]
    return smooth_curve(mirrored([*_crown(cut, traits), *end, *inner]), closed=True)


def _face_opening(cut: Cut, traits: Traits) -> Floats:
    """What the front hair leaves free: from the hairline to beyond the bottom of the canvas."""
    wide = 143 * traits.face_width - cut.cover
    part = traits.hair_part if cut.recede > 20 else 0.0
    across = np.linspace(-0.86, 0.86, 13)
    # The hairline is highest at the parting and falls off towards both temples.
    fall = (np.abs(across - part / 150) / 0.9) ** 2
    line = np.stack([_MIDDLE + across * wide, cut.hairline + cut.recede * fall + 34 * across**6], axis=1)
    bottom = [(wide, 255), (wide + 2, 300), (wide + 8, 700)]
    right = np.array([(_MIDDLE + x, y) for x, y in bottom])
    left = np.array([(_MIDDLE - x, y) for x, y in reversed(bottom)])
    return np.concatenate([line, right, left]).astype(np.float32)


def _strands(canvas: Canvas, cut: Cut, traits: Traits, rng: np.random.Generator) -> Floats:
    """Brightness of the strands everywhere, float32 (n, n), about zero mean and unit deviation.

    A strand is a line of constant `across`; noise that is fine across and coarse along makes it visible.
    """
    line = (np.arange(RELIEF_SIZE, dtype=np.float32) + 0.5) * (EXTENT / RELIEF_SIZE) - (EXTENT - CROP) / 2
    x, y = line[None, :], line[:, None]
    bend = 7 * cut.wave * (0.4 + traits.hair_wave)
    swing = noise(rng, 10, RELIEF_SIZE) * 1.6
    dx = x - _MIDDLE - traits.hair_part + bend * np.sin(y / 23 + swing) * np.clip((y - 40) / 160, 0.1, 1)
    down = np.maximum(y - 8, 0) + 45
    across = dx / (down / 110) ** cut.radial
    if cut.curl > 0:
        across = across + 16 * cut.curl * noise(rng, 50, RELIEF_SIZE)
        down = down + 14 * cut.curl * noise(rng, 50, RELIEF_SIZE)
    size = (canvas.size, canvas.size)
    columns = cv2.resize((across * 1.25 + _TEXTURE_COLUMNS / 2).astype(np.float32), size)
    rows = cv2.resize(np.broadcast_to(down / 40, across.shape).astype(np.float32), size)
    fine = cv2.GaussianBlur(rng.standard_normal((20, _TEXTURE_COLUMNS), np.float32), (0, 0), 0.8, sigmaY=0.3) * 1.5
    clumps = cv2.GaussianBlur(rng.standard_normal((20, _TEXTURE_COLUMNS), np.float32), (0, 0), 7, sigmaY=0.6) * 5
    texture = 0.75 * fine + 0.65 * clumps
    return cv2.remap(texture, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT).astype(np.float32)


def _ragged(stencil: Stencil, strands: Floats, roughness: float) -> Stencil:
    """Let single strands reach over a soft edge."""
    edge = (stencil.alpha - 0.5 + roughness * strands[stencil.window] * (stencil.alpha * (1 - stencil.alpha) * 4)) * 5
    return Stencil(stencil.window, np.clip(edge + 0.5, 0, 1).astype(np.float32))


def _hair_colour(canvas: Canvas, traits: Traits, strands: Floats, stencil: Stencil, tone: float) -> Floats:
    """Lit hair in the window of `stencil`, float32 RGB (h, w, 3)."""
    x, y = canvas.coordinates(stencil.window)
    texture = strands[stencil.window]
    dome = y + 0.0022 * (x - _MIDDLE - 50 * math.sin(traits.light_azimuth)) ** 2
    band = np.exp(-(((dome - 78) / 30) ** 2)) + 0.45 * np.exp(-(((dome - 330) / 70) ** 2))
    side = 1 + 0.30 * np.tanh((x - _MIDDLE) / 110) * traits.light_azimuth
    value = tone * side * (0.86 + 0.16 * texture)
    gloss = 0.16 * tone * band * np.clip(0.75 + 0.5 * texture, 0, 2) * (1.1 - traits.ambient)
    colour = value[..., None] * floats(traits.hair_colour)
    colour += gloss[..., None] * (0.35 + 0.65 * floats(traits.hair_colour))
    return colour.clip(0, 1).astype(np.float32)


def paint_back_hair(canvas: Canvas, traits: Traits, rng: np.random.Generator) -> None:
    """Hair that falls behind the neck, and the knot of a bun; nothing for short styles."""
    if traits.hair_style == "bald":
        return
    cut = CUTS[traits.hair_style]
    wide = 150 * traits.face_width
    outlines = []
    if cut.back_end:
        widest = (wide + 8 + cut.spread, (245 + cut.back_end) / 2)
        half = [*_crown(cut, traits), widest, (wide - 12 + cut.spread, cut.back_end), (wide - 70, cut.back_end + 24)]
        outlines.append(smooth_curve(mirrored(half), closed=True))
    if traits.hair_style == "bun":
        t = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        outlines.append(np.stack([_MIDDLE + 62 * np.cos(t), 8 + 46 * np.sin(t)], axis=1).astype(np.float32))
    strands = _strands(canvas, cut, traits, rng) if outlines else np.zeros((1, 1), np.float32)
    for outline in outlines:
        stencil = _ragged(canvas.filled(outline, 4 + 2 * cut.curl), strands, 0.10 + 0.12 * cut.curl)
        canvas.paint(stencil, _hair_colour(canvas, traits, strands, stencil, 0.62))


def paint_front_hair(canvas: Canvas, traits: Traits, rng: np.random.Generator) -> None:
    """Hair over the skull and beside the face, with its shadow on the skin; nothing on a bald head."""
    if traits.hair_style == "bald":
        return
    cut = CUTS[traits.hair_style]
    strands = _strands(canvas, cut, traits, rng)
    outer = _ragged(canvas.filled(_front_outline(cut, traits), 3.5 + 2 * cut.curl), strands, 0.10 + 0.14 * cut.curl)
    soft = 9.0 if traits.hair_style == "buzz" else 4.5
    opening = canvas.filled(_face_opening(cut, traits), soft)
    closed = np.ones((canvas.size, canvas.size), np.float32)
    closed[opening.window] -= opening.alpha
    front = _ragged(Stencil(outer.window, closed[outer.window]), strands, 0.22).within(outer)
    canvas.darken(_shadow(canvas, front), (0.30, 0.36, 0.38))
    if traits.hair_style == "buzz":
        front = Stencil(front.window, front.alpha * np.clip(0.62 + 0.16 * strands[front.window], 0, 1))
    canvas.paint(front, _hair_colour(canvas, traits, strands, front, 1.0))
    if cut.curl == 0 or cut.wave > 0:
        _loose_hairs(canvas, traits, cut, rng)


def _shadow(canvas: Canvas, hair: Stencil) -> Stencil:
    """What the hair shades a little below itself, soft enough to be worked out at a quarter of the size."""
    height, width = hair.alpha.shape
    small = cv2.resize(hair.alpha, (max(1, width // 4), max(1, height // 4)), interpolation=cv2.INTER_AREA)
    lower = np.array([[1, 0, 0], [0, 1, 7 * canvas.scale / 4]], np.float32)
    moved = cv2.warpAffine(small, lower, small.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
    soft = cv2.GaussianBlur(moved, (0, 0), 6 * canvas.scale / 4)
    return Stencil(hair.window, cv2.resize(soft, (width, height)).astype(np.float32, copy=False))


def _loose_hairs(canvas: Canvas, traits: Traits, cut: Cut, rng: np.random.Generator) -> None:
    """Single hairs that stand off the outline."""
    right = np.array(_crown(cut, traits), np.float32)
    over_the_top = np.concatenate([right[::-1] * floats([-1, 1]), right]) + floats([_MIDDLE, 0])
    outline = smooth_curve(over_the_top, closed=False)
    hairs = []
    for start in rng.integers(0, len(outline) - 6, 26):
        root = outline[start]
        away = (root - floats([_MIDDLE, 260])) / 260
        tip = outline[start + 5] + away * np.float32(rng.uniform(2, 11))
        middle = (root + tip) / 2 + away * np.float32(rng.uniform(1, 9))
        hairs.append(smooth_curve(np.stack([root, middle, tip]).astype(np.float32), closed=False))
    red, green, blue = (min(1.0, c * 1.15 + 0.04) for c in traits.hair_colour)
    hair = canvas.stroked(hairs, 0.8).scaled(0.55)
    canvas.paint(hair, (red, green, blue))
