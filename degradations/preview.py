"""A labelled contact sheet: one face and what a recipe makes of it."""

import textwrap

import cv2
import numpy as np

from degradations.chain import Degraded, degrade
from degradations.face import Face
from degradations.images import Uint8Image
from degradations.jpeg import decode_image
from degradations.recipes import Recipe
from degradations.resample import enlarge

_CELL = 256  # side of a face on the sheet, in pixels
_LINE = 15  # height of a line of text
_LETTERS = 40  # that fit beside each other in a cell
_COLUMNS = 3
_UNBROKEN = "\u00a0"  # a space within what belongs together
_WORDS = {
    "blur": "{kernel} {ksize}: {sigma_x:.1f} x {sigma_y:.1f}",
    "mixed_blur": "{kernel} {ksize}",
    "motion_blur": "streak {length:.1f}",
    "downsample": "r {r:.1f}",
    "resize": "{filter} x {scale:.2f}",
    "noise": "noise {sigma:.1f}",
    "mixed_noise": "{kind} {amount:.1f}",
    "jpeg": "quality {quality}",
    "sinc_jpeg": "sinc {ksize}, quality {quality}",
    "colour_shift": "shift {shifts[0]:+.0f} {shifts[1]:+.0f} {shifts[2]:+.0f}",
    "colour_jitter": ", ".join(f"{{adjustments[{place}][0]}} {{adjustments[{place}][1]:.2f}}" for place in range(4)),
    "gray": "gray",
}


def draw_recipe_sheet(hq: Uint8Image, recipe: Recipe, count: int, seed: int) -> Uint8Image:
    """(R, R, 3) to a sheet (H, W, 3), uint8 RGB: the face, then `count` samples; sample i has the seed [seed, i]."""
    face = Face(hq)
    images, labels = [hq], [[recipe.name, f"HQ, {face.side} px"]]
    for index in range(count):
        degraded = degrade(face, recipe, np.random.default_rng([seed, index]))
        images.append(enlarge(decode_image(degraded.file), face.side))
        labels.append(_label(degraded))
    text = _LINE * max(map(len, labels)) + 3
    cells = [_cell(image, lines, text) for image, lines in zip(images, labels, strict=True)]
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % _COLUMNS)
    rows = [np.concatenate(cells[start : start + _COLUMNS], axis=1) for start in range(0, len(cells), _COLUMNS)]
    return np.concatenate(rows)


def _label(degraded: Degraded) -> list[str]:
    """What the steps drew, as many to a line as fit, and the size of the result."""
    words = ", ".join(_WORDS[step["op"]].format(**step) for step in degraded.params["steps"])
    unbroken = words.replace(" ", _UNBROKEN).replace(f",{_UNBROKEN}", ", ")
    lines = [line.replace(_UNBROKEN, " ") for line in textwrap.wrap(unbroken, _LETTERS)]
    return [*lines, f"{degraded.params['side']} px, {len(degraded.file) / 1024:.1f} KB"]


def _cell(image: Uint8Image, lines: list[str], text: int) -> Uint8Image:
    """(_CELL + text, _CELL, 3): the image above its lines of text."""
    small = cv2.resize(image, (_CELL, _CELL), interpolation=cv2.INTER_AREA)
    cell = cv2.copyMakeBorder(small, 0, text, 0, 0, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    for number, line in enumerate(lines, start=1):
        place = (4, _CELL + _LINE * number - 2)
        cv2.putText(cell, line, place, cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
    return np.asarray(cell, dtype=np.uint8)
