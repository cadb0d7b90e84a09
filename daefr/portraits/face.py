"""Painting the head: neck, ears, skin, eyes, brows, nose, mouth, beard and glasses, from back to front."""

import math

import cv2
import numpy as np

from daefr.portraits.canvas import CROP, Canvas, Colour, Floats, Stencil, ellipse, floats, mirrored, noise, smooth_curve
from daefr.portraits.geometry import RELIEF_SIZE, FaceLayout, light_on, relief
from daefr.portraits.traits import Traits

_MIDDLE = CROP / 2
_TEETH: Colour = (0.92, 0.90, 0.85)
_MOUTH_INSIDE: Colour = (0.20, 0.06, 0.07)

Point = tuple[float, float]


def _shaded(colour: Colour, factor: float) -> Colour:
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def _line(points: list[Point]) -> Floats:
    return smooth_curve(np.array(points, np.float32), closed=False)


def head_outline(traits: Traits) -> Floats:
    """Closed outline of the face and skull, float32 (n, 2)."""
    wide, jaw, chin = traits.face_width, traits.jaw, 461 + traits.chin
    half: list[Point] = [
        (30, 26),
        (92, 58),
        (134 * wide, 120),
        (148 * wide, 190),
        (147 * wide, 262),
        (140 * wide + 2 * jaw, 325),
        (119 * wide + 9 * jaw, 386),
        (82 * wide + 11 * jaw, chin - 32),
        (38 + 7 * jaw, chin - 4),
    ]
    return smooth_curve(mirrored(half), closed=True)


def paint_neck_and_clothes(canvas: Canvas, traits: Traits, rng: np.random.Generator) -> None:
    """Neck in the chin's shadow, shoulders, and a garment with folds."""
    width = 84 * traits.face_width + 8 * max(traits.jaw, 0)
    neck = smooth_curve(
        mirrored([(width, 330), (width, 430), (width + 8, 480), (width + 70, 520), (270, 545), (330, 640)]), True
    )
    canvas.paint(canvas.filled(neck, 0.6), _shaded(traits.skin, 0.72 + 0.12 * traits.ambient))
    lit_side = np.sign(traits.light_azimuth)
    canvas.darken(canvas.filled(neck + floats([-lit_side * 120, 0]), 24), (0.18, 0.26, 0.30))
    canvas.darken(canvas.filled(head_outline(traits) + floats([-lit_side * 10, 20]), 9), (0.38, 0.46, 0.50))

    collar: list[Point] = {
        "crew": [(0.0, 540.0), (60.0, 530.0), (width + 24, 492.0)],
        "v": [(0.0, 620.0), (40.0, 560.0), (width + 20, 486.0)],
        "collar": [(0.0, 590.0), (30.0, 540.0), (width + 14, 474.0)],
    }[traits.neckline]
    garment = mirrored([*collar, (width + 90, 508), (290, 540), (340, 700)])
    stencil = canvas.filled(garment, 0.5)
    folds = (noise(rng, 14, canvas.size) * 0.05 + noise(rng, 200, canvas.size) * 0.025)[stencil.window]
    x, _ = canvas.coordinates(stencil.window)
    light = 0.85 + 0.2 * np.tanh((x - _MIDDLE) / 140 * traits.light_azimuth) + folds
    canvas.paint(stencil, (light[..., None] * floats(traits.clothing)).clip(0, 1).astype(np.float32))
    edge = [_line([(_MIDDLE + side * offset, y) for offset, y in collar]) for side in (-1, 1)]
    canvas.darken(canvas.stroked(edge, 7 if traits.neckline == "collar" else 3, 1), (0.3, 0.3, 0.3))


def paint_ears(canvas: Canvas, traits: Traits) -> None:
    """Both ears; the head and the hair then cover what they cover."""
    for side in (-1, 1):
        x = _MIDDLE + side * 149 * traits.face_width
        lit = 0.86 + 0.12 * np.tanh(2 * side * traits.light_azimuth)
        outer = canvas.filled(ellipse((x, 272), (17, 37), side * 0.16), 0.6)
        canvas.paint(outer, _shaded(traits.skin, lit))
        inner = canvas.filled(ellipse((x + side * 2, 270), (8, 22), side * 0.16), 3)
        canvas.darken(inner.within(outer), (0.30, 0.42, 0.44))


def _complexion(
    canvas: Canvas, traits: Traits, layout: FaceLayout, window: tuple[slice, slice], rng: np.random.Generator
) -> Floats:
    """Colour of bare skin before light, float32 RGB (h, w, 3) for `window` of the canvas."""
    x, y = canvas.coordinates(window)
    blotches = noise(rng, 24, canvas.size)[window] * 0.010 + noise(rng, 90, canvas.size)[window] * 0.008
    pores = noise(rng, 320, canvas.size)[window] * (0.012 + 0.008 * traits.age)
    value = 1 + blotches + pores + noise(rng, 640, canvas.size)[window] * 0.016
    red = blotches
    cheeks = [(_MIDDLE - 82, 318.0, 34.0), (_MIDDLE + 82, 318.0, 34.0)]
    for place_x, place_y, reach in (*cheeks, (*layout.nose, 20.0), (_MIDDLE, 430.0, 26.0)):
        down = np.exp(-(((y - place_y) / reach) ** 2) / 2) * (0.10 * traits.blush)
        red = red + down * np.exp(-(((x - place_x) / reach) ** 2) / 2)
    pale = value - red
    return floats(cv2.merge([value * traits.skin[0], pale * traits.skin[1], pale * traits.skin[2]]))


def paint_skin(canvas: Canvas, traits: Traits, layout: FaceLayout, rng: np.random.Generator) -> Stencil:
    """The lit head with pores, freckles and lines of age; returns the head's mask."""
    diffuse, gloss = light_on(relief(traits, layout), traits)
    head = canvas.filled(head_outline(traits), 0.7)
    skin = _complexion(canvas, traits, layout, head.window, rng)
    size = (canvas.size, canvas.size)
    method = cv2.INTER_LINEAR if canvas.size >= RELIEF_SIZE else cv2.INTER_AREA
    skin *= cv2.resize(diffuse, size, interpolation=method)[head.window]
    skin += cv2.resize(gloss, size, interpolation=method)[head.window][..., None] * floats([0.13, 0.13, 0.14])
    canvas.paint(head, skin)
    _freckles(canvas, traits, rng)
    _lines_of_age(canvas, traits, layout)
    return head


def _freckles(canvas: Canvas, traits: Traits, rng: np.random.Generator) -> None:
    spots = rng.normal((0, 305), (62, 32), (traits.freckles, 2)) + np.array([_MIDDLE, 0])
    sizes = rng.uniform(0.5, 1.7, traits.freckles)
    shadow: Colour = (0.22, 0.32, 0.34)
    for low, high in ((0.5, 1.0), (1.0, 1.7)):
        chosen = [ellipse((x, y), (r, r)) for (x, y), r in zip(spots, sizes, strict=True) if low <= r < high]
        if chosen:
            canvas.darken(canvas.stroked(chosen, (low + high) / 2, 0.5), shadow)


def _lines_of_age(canvas: Canvas, traits: Traits, layout: FaceLayout) -> None:
    """Folds beside the mouth, and with age lines on the forehead, under and beside the eyes."""
    nose_x, nose_y = layout.nose
    age = traits.age
    folds, fine = [], []
    for side, (corner_x, corner_y) in zip((-1, 1), layout.mouth_corners, strict=True):
        eye_x, eye_y = layout.eyes[(side + 1) // 2]
        folds.append(
            _line(
                [
                    (nose_x + side * 27 * traits.nose_width, nose_y - 3),
                    (nose_x + side * 44, nose_y + 20),
                    (corner_x + side * 12, corner_y - 8),
                    (corner_x + side * 14, corner_y + 10),
                ]
            )
        )
        folds.append(
            _line([(eye_x - side * 24, eye_y + 17), (eye_x - side * 4, eye_y + 25), (eye_x + side * 20, eye_y + 23)])
        )
        for spread in (-8, 2, 12):
            start = (eye_x + side * 40, eye_y + spread * 0.5)
            fine.append(
                _line(
                    [start, (start[0] + side * 10, start[1] + spread * 0.3), (start[0] + side * 20, start[1] + spread)]
                )
            )
    for row, y in enumerate((132, 152, 171)):
        fine.append(
            _line(
                [(_MIDDLE - 70 + 6 * row, y + 4), (_MIDDLE - 25, y - 1), (_MIDDLE + 20, y + 1), (_MIDDLE + 66, y + 3)]
            )
        )
    depth = 0.10 + 0.12 * max(traits.smile, 0) + 0.16 * age
    canvas.darken(canvas.stroked(folds, 3.5, 2.2), (depth, depth * 1.25, depth * 1.3))
    crease = max(age - 0.35, 0) * 0.55
    canvas.darken(canvas.stroked(fine, 1.4, 0.7), (crease, crease * 1.15, crease * 1.2))


def _eye_lids(traits: Traits, centre: Point, side: int, grow: float = 0.0) -> tuple[Floats, Floats]:
    """Upper and lower lid edges, float32 (n, 2) from left to right; `grow` moves both outwards."""
    t = np.linspace(-1, 1, 25)
    half = 30 * traits.eye_size + grow * 0.6
    upper = 14.5 * traits.eye_opening * traits.eye_size + grow
    lower = 8.5 * traits.eye_opening * traits.eye_size + grow * 0.7
    # The upper lid is highest towards the nose, the lower lid lowest towards the temple.
    bulge = 1 - np.abs(t + 0.10 * side * (1 - t**2)) ** 2.1
    sag = 1 - np.abs(t - 0.18 * side * (1 - t**2)) ** 2.0
    x = centre[0] + half * t
    slant = centre[1] + 2.5 - half * t * side * traits.eye_tilt
    return (
        np.stack([x, slant - upper * bulge], axis=1).astype(np.float32),
        np.stack([x, slant + lower * sag], axis=1).astype(np.float32),
    )


def paint_eyes(canvas: Canvas, traits: Traits, layout: FaceLayout, rng: np.random.Generator) -> None:
    """Both eyes: lids, white, iris with its fibres, pupil, highlight, lashes."""
    for side, centre, pupil in zip((-1, 1), layout.eyes, layout.pupils, strict=True):
        upper, lower = _eye_lids(traits, centre, side)
        _eye_surroundings(canvas, traits, centre, side)
        opening = canvas.filled(np.concatenate([upper, lower[::-1]]), 0.5)
        x, y = canvas.coordinates(opening.window)
        ball = 0.90 - 0.00022 * (x - centre[0]) ** 2 - 0.0005 * (y - centre[1] - 4) ** 2
        ball = ball * (0.62 + 0.38 * traits.ambient + 0.15)
        canvas.tint(opening, (ball[..., None] * floats([1.0, 0.965, 0.94])).clip(0, 1).astype(np.float32))
        inner = (centre[0] - side * 28 * traits.eye_size, centre[1] + 4)
        canvas.tint(canvas.filled(ellipse(inner, (4, 3)), 1).within(opening), (0.72, 0.42, 0.40))
        _iris(canvas, traits, pupil, opening, rng)
        canvas.darken(canvas.stroked([upper + floats([0, 3])], 5, 2).within(opening), (0.45, 0.45, 0.45))
        _highlight(canvas, traits, pupil, opening)
        _lashes(canvas, traits, (upper, lower), side, rng)


def _eye_surroundings(canvas: Canvas, traits: Traits, centre: Point, side: int) -> None:
    """Shade of the socket, the fold of the upper lid, the rim of the lower one."""
    fold, _ = _eye_lids(traits, centre, side, grow=6.5)
    _, rim = _eye_lids(traits, centre, side, grow=2.0)
    canvas.darken(canvas.filled(ellipse((centre[0], centre[1] - 3), (30, 13)), 8), (0.20, 0.27, 0.28))
    shadow = traits.makeup**2 * 0.5
    canvas.darken(
        canvas.filled(ellipse((centre[0] + 4 * side, centre[1] - 12), (30, 9)), 5), (shadow, shadow, shadow * 0.8)
    )
    canvas.darken(canvas.stroked([fold[2:-2]], 2.0, 0.9), (0.34, 0.42, 0.44))
    canvas.tint(canvas.stroked([rim[3:-3]], 2.4, 0.8).scaled(0.4), _shaded(traits.skin, 0.98))


def _iris(canvas: Canvas, traits: Traits, pupil: Point, opening: Stencil, rng: np.random.Generator) -> None:
    radius = 12.6
    disc = canvas.filled(ellipse(pupil, (radius, radius)), 0.6).within(opening)
    x, y = canvas.coordinates(disc.window)
    dx, dy = x - pupil[0], y - pupil[1]
    distance = np.sqrt(dx**2 + dy**2) / radius
    spokes = rng.normal(0, 1, 96).astype(np.float32)
    angle = (np.arctan2(dy, dx) / (2 * np.pi) + 0.5) * 95
    fibres = np.interp(angle.ravel(), np.arange(96), spokes).reshape(angle.shape)
    # Darkest at the limbal ring and brightest opposite the light, where it leaves the cornea.
    caught = 0.25 * (dy - dx * math.sin(traits.light_azimuth)) / radius
    value = (0.85 + 0.17 * fibres * (distance > 0.3) + caught) * (1 - 0.62 * np.clip((distance - 0.72) / 0.28, 0, 1))
    warm_core = np.clip(1 - distance * 1.5, 0, 1)[..., None] * floats([0.20, 0.10, 0.0])
    colour = (value[..., None] * floats(traits.eye_colour) + warm_core * 0.6).clip(0, 1).astype(np.float32)
    canvas.tint(disc, colour)
    canvas.tint(canvas.filled(ellipse(pupil, (5.0, 5.0)), 0.5).within(opening), (0.03, 0.025, 0.025))


def _highlight(canvas: Canvas, traits: Traits, pupil: Point, opening: Stencil) -> None:
    """The reflection of the light, off the pupil's centre so that the landmark itself stays dark."""
    spot = (pupil[0] + 6.0 * math.sin(traits.light_azimuth), pupil[1] - 4.2 - 1.8 * traits.light_elevation)
    canvas.tint(canvas.filled(ellipse(spot, (2.4, 2.1)), 0.4).within(opening), (0.97, 0.98, 1.0))
    faint = (pupil[0] - 6.0, pupil[1] + 6.5)
    canvas.tint(canvas.filled(ellipse(faint, (3.2, 1.8)), 1).within(opening).scaled(0.22), (0.9, 0.92, 0.95))


def _lashes(canvas: Canvas, traits: Traits, lids: tuple[Floats, Floats], side: int, rng: np.random.Generator) -> None:
    """Lash lines and the single lashes of the upper lid, fanned out and longest towards the temple."""
    upper, lower = lids
    middle = float(upper[:, 0].mean())
    ink: Colour = (0.10, 0.07, 0.06)
    strength = 0.62 + 0.38 * traits.makeup
    canvas.tint(canvas.stroked([upper], 2.4 + 1.8 * traits.makeup, 0.5).scaled(strength), ink)
    canvas.darken(canvas.stroked([lower], 1.4, 0.6), (0.30, 0.40, 0.40))
    length = 5 + 7 * traits.makeup
    strands = []
    for root in upper[2:-2]:
        outwards = (root[0] - middle) / 30
        reach = length * (0.6 + 0.5 * max(side * outwards, 0)) * rng.uniform(0.7, 1.2)
        bend = root + floats([outwards * reach * 0.5, -reach * 0.45])
        strands.append(np.stack([root, bend, bend + floats([outwards * reach * 0.5, -reach * 0.55])]))
    canvas.tint(canvas.stroked(strands, 0.9).scaled(strength), ink)


def paint_brows(canvas: Canvas, traits: Traits, layout: FaceLayout, rng: np.random.Generator) -> None:
    """Brows of single hairs over a soft shade."""
    colour = _shaded(traits.hair_colour, 0.8) if sum(traits.hair_colour) < 1.2 else _shaded(traits.hair_colour, 0.62)
    for side, (eye_x, eye_y) in zip((-1, 1), layout.eyes, strict=True):
        t = np.linspace(0, 1, 60)
        x = eye_x + side * (-33 + 76 * t)
        arch = traits.brow_arch * np.sin(np.pi * np.clip(t * 0.95, 0, 1) ** 1.25) * 1.1 - 5 * np.clip(t - 0.6, 0, 1) * 2
        y = eye_y - 31 - traits.brow_lift - arch
        thick = (
            5.2 * traits.brow_weight * (1 - 0.75 * np.clip((t - 0.45) / 0.55, 0, 1) ** 1.3) * np.clip(0.6 + t * 2, 0, 1)
        )
        spine = np.stack([x, y], axis=1)
        down = np.stack([np.zeros_like(t), thick], axis=1)
        body = np.concatenate([spine - down, (spine + down)[::-1]]).astype(np.float32)
        canvas.tint(canvas.filled(body, 1.8).scaled(0.42), colour)
        count = int(150 * min(traits.brow_weight, 1.2))
        where = rng.uniform(0, 1, count)
        roots = np.stack([np.interp(where, t, x), np.interp(where, t, y + 0.4 * thick)], axis=1)
        roots[:, 1] += rng.uniform(-1, 0.7, count) * np.interp(where, t, thick)
        rise = np.interp(where, [0, 0.25, 0.6, 1], [1.2, 0.75, 0.2, -0.35]) + rng.normal(0, 0.12, count)
        length = rng.uniform(5, 9, count)
        tips = roots + np.stack([side * np.cos(rise) * length, -np.sin(rise) * length], axis=1)
        hairs = list(np.stack([roots, tips], axis=1).astype(np.float32))
        canvas.tint(canvas.stroked(hairs[::2], 1.0).scaled(0.8), colour)
        canvas.tint(canvas.stroked(hairs[1::2], 0.8).scaled(0.7), _shaded(colour, 0.6))


def paint_nose(canvas: Canvas, traits: Traits, layout: FaceLayout) -> None:
    """Nostrils, wings, the shade below and the highlight on the tip; the relief already gave it its form."""
    x, y = layout.nose
    wide = traits.nose_width
    lit = math.sin(traits.light_azimuth)
    canvas.darken(canvas.filled(ellipse((x - 4 * lit, y + 19), (25 * wide, 6)), 4), (0.24, 0.34, 0.36))
    for side in (-1, 1):
        nostril = ellipse((x + side * 12.5 * wide, y + 11.5), (6.0 * wide, 3.0), -0.35 * side)
        canvas.darken(canvas.filled(nostril, 1.3), (0.68, 0.78, 0.78))
        wing = [(24, -9), (29, 0), (27.5, 9), (20, 12.5)]
        line = _line([(x + side * offset * wide, y + drop) for offset, drop in wing])
        canvas.darken(canvas.stroked([line], 2.2, 1.5), (0.26, 0.36, 0.38))
        flank = _line([(x + side * 13, 236), (x + side * 11, 268), (x + side * 17 * wide, y - 16)])
        shade = 0.07 - 0.09 * side * lit
        canvas.darken(canvas.stroked([flank], 9, 5), (shade, shade * 1.2, shade * 1.25))
    canvas.tint(canvas.filled(ellipse((x + 3.5 * lit, y - 5), (5, 4)), 3).scaled(0.30), (1.0, 0.97, 0.94))


def _lip_curves(traits: Traits, layout: FaceLayout) -> tuple[Floats, Floats, Floats, Floats]:
    """Outer edge of the upper lip, its inner edge, the inner edge of the lower lip, its outer edge.

    Each is float32 (n, 2) from the left corner to the right one, which are the landmarks.
    """
    (left_x, corner_y), (right_x, _) = layout.mouth_corners
    t = np.linspace(-1, 1, 33)
    x = (left_x + right_x) / 2 + t * (right_x - left_x) / 2
    hump = 1 - t**2
    full = traits.lip_fullness * (1 - 0.15 * max(traits.smile, 0))
    gap = 15 * traits.mouth_open
    centre_y = layout.mouth[1] + 3 * traits.smile
    seam = corner_y + (centre_y - corner_y) * hump**0.8
    bow = 2.6 * np.exp(-((t / 0.13) ** 2)) - 1.2 * np.exp(-(((np.abs(t) - 0.24) / 0.14) ** 2))
    inner_top = seam - 0.25 * gap * hump + 1.2 * np.exp(-((t / 0.2) ** 2))
    inner_bottom = seam + gap * hump + 1.2 * np.exp(-((t / 0.2) ** 2))
    top = inner_top - 10.5 * full * hump**0.85 + bow * full
    bottom = inner_bottom + 15 * full * hump**0.75
    top_edge, top_seam, bottom_seam, bottom_edge = (
        np.stack([x, y], axis=1).astype(np.float32) for y in (top, inner_top, inner_bottom, bottom)
    )
    return top_edge, top_seam, bottom_seam, bottom_edge


def paint_mouth(canvas: Canvas, traits: Traits, layout: FaceLayout, rng: np.random.Generator) -> None:
    """Lips with creases, and teeth where the mouth is open."""
    top_edge, top_seam, bottom_seam, bottom_edge = _lip_curves(traits, layout)
    below = bottom_edge[8:-8] + floats([0, 5])
    canvas.darken(canvas.stroked([below], 5, 3.5), (0.17, 0.23, 0.24))
    inside = canvas.filled(np.concatenate([top_seam, bottom_seam[::-1]]), 0.5)
    if traits.mouth_open > 0:
        canvas.tint(inside, _MOUTH_INSIDE)
        _teeth(canvas, traits, top_seam, inside)
    light = 0.80 + 0.25 * traits.ambient
    for edges, tone in (((top_edge, top_seam), 0.84), ((bottom_seam, bottom_edge), 1.0)):
        lip = canvas.filled(np.concatenate([edges[0], edges[1][::-1]]), 0.9)
        x, _ = canvas.coordinates(lip.window)
        creases = np.interp(x[0], np.linspace(140, 370, 100), rng.normal(0, 0.05, 100))
        side = 1 + 0.10 * np.tanh((x - _MIDDLE) / 50) * traits.light_azimuth
        colour = (tone * light * side * (1 + creases))[..., None] * floats(traits.lip_colour)
        canvas.tint(lip.scaled(0.92), colour.clip(0, 1).astype(np.float32))
    shine_y = float(bottom_seam[16, 1] * 0.55 + bottom_edge[16, 1] * 0.45)
    shine = canvas.filled(ellipse((_MIDDLE + 9 * math.sin(traits.light_azimuth), shine_y), (17, 2.6)), 2.2)
    canvas.tint(shine.scaled(0.16 + 0.22 * traits.makeup), (1.0, 0.93, 0.92))
    canvas.darken(canvas.stroked([top_seam], 1.8, 0.8), (0.55, 0.66, 0.66))
    canvas.darken(canvas.filled(ellipse(layout.mouth_corners[0], (3.5, 2.5)), 1.8), (0.40, 0.50, 0.50))
    canvas.darken(canvas.filled(ellipse(layout.mouth_corners[1], (3.5, 2.5)), 1.8), (0.40, 0.50, 0.50))


def _teeth(canvas: Canvas, traits: Traits, top_seam: Floats, inside: Stencil) -> None:
    """The upper row, hanging from the lip and shaded towards the corners."""
    drop = floats([0, 4 + 9 * traits.mouth_open])
    row = canvas.filled(np.concatenate([top_seam, (top_seam + drop)[::-1]]), 0.8).within(inside)
    x, _ = canvas.coordinates(row.window)
    value = 0.95 - 0.00022 * (x - _MIDDLE) ** 2
    colour = value[..., None].clip(0.3, 1) * floats(_TEETH) * np.float32(0.78 + 0.25 * traits.ambient)
    canvas.tint(row, colour.astype(np.float32))
    gaps = []
    for offset in (0.0, 10.5, 18.5, 27.0, 34.5, 41.0):
        for side in (-1, 1):
            middle = _MIDDLE + side * offset
            y = float(np.interp(middle, top_seam[:, 0], top_seam[:, 1]))
            gaps.append(floats([[middle, y], [middle, y + drop[1]]]))
    canvas.darken(canvas.stroked(gaps, 0.9, 0.4).within(row), (0.28, 0.32, 0.36))


def paint_beard(canvas: Canvas, traits: Traits, layout: FaceLayout, head: Stencil, rng: np.random.Generator) -> None:
    """Beard and moustache of short hairs, from stubble to full; nothing where both are 0."""
    if traits.beard == 0:
        return
    wide, chin = traits.face_width, 461 + traits.chin
    mouth_y = layout.mouth[1]
    half: list[Point] = [(52, mouth_y - 8), (96, mouth_y - 30), (128 * wide, 300), (150 * wide, 270), (150 * wide, 400)]
    half += [(90, chin + 8), (0, chin + 14)]
    grown = [(mirrored(half), traits.beard)]
    if traits.moustache > 0:
        lip = [
            (4.0, mouth_y - 33.0),
            (30.0, mouth_y - 29.0),
            (63.0, mouth_y + 2),
            (56.0, mouth_y + 12),
            (10.0, mouth_y - 13),
        ]
        grown.append((smooth_curve(mirrored(lip), True), traits.moustache))
    colour = _shaded(traits.hair_colour, 0.85)
    for outline, density in grown:
        area = canvas.filled(outline, 6).within(head)
        canvas.tint(area.scaled(0.25 + 0.5 * density**1.5), colour)
        low, high = outline.min(axis=0), outline.max(axis=0)
        count = int(float(np.prod(high - low)) * (0.035 + 0.06 * density))
        roots = rng.uniform(low, high, (count, 2)).astype(np.float32)
        length = (1.5 + 9 * density**2) * rng.uniform(0.6, 1.3, (count, 1))
        drift = np.stack([(roots[:, 0] - _MIDDLE) / 130 + rng.normal(0, 0.35, count), np.ones(count)], axis=1)
        hairs = np.stack([roots, roots + drift * length], axis=1).astype(np.float32)
        for part, tone in ((hairs[0::3], 0.55), (hairs[1::3], 1.0), (hairs[2::3], 1.5)):
            canvas.tint(canvas.stroked(list(part), 0.8).within(area).scaled(0.5), np.clip(floats(colour) * tone, 0, 1))


def paint_glasses(canvas: Canvas, traits: Traits, layout: FaceLayout) -> None:
    """Frames, a glare on the lenses and the shadow below; nothing without glasses."""
    if traits.glasses == "none":
        return
    frames = []
    for side, (eye_x, eye_y) in zip((-1, 1), layout.eyes, strict=True):
        t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        power = 1.0 if traits.glasses == "round" else 0.5
        cosine, sine = np.cos(t), np.sin(t)
        rim_x = np.sign(cosine) * np.abs(cosine) ** power * 46
        rim_y = np.sign(sine) * np.abs(sine) ** power * (39 if traits.glasses == "round" else 31)
        rim = np.stack([eye_x + side * 2 + rim_x, eye_y + 5 + rim_y], axis=1).astype(np.float32)
        frames += [np.concatenate([rim, rim[:1]])]
        frames += [_line([(eye_x + side * 47, eye_y - 6), (_MIDDLE + side * 150 * traits.face_width, eye_y - 2)])]
        lens = canvas.filled(rim, 0.5)
        canvas.darken(lens, (0.05, 0.05, 0.03))
        glare = floats([[-10, -40], [8, -40], [-22, 50], [-40, 50]]) + floats([eye_x, eye_y])
        canvas.tint(canvas.filled(glare, 1.5).within(lens).scaled(0.13), (1, 1, 1))
    (left_x, eye_y), (right_x, _) = layout.eyes
    frames.append(_line([(left_x + 45, eye_y - 2), (_MIDDLE, eye_y - 9), (right_x - 45, eye_y - 2)]))
    canvas.darken(canvas.stroked([frame + floats([0, 5]) for frame in frames], 5, 3), (0.22, 0.26, 0.26))
    canvas.tint(canvas.stroked(frames, 4.2, 0.4), traits.frame_colour)
    shine = [frame + floats([-0.6, -1]) for frame in frames]
    canvas.tint(canvas.stroked(shine, 0.9).scaled(0.35), (1, 1, 1))
