"""A labelled contact sheet: one face and what a recipe makes of it."""

import cv2
import numpy as np

from degradations.chain import Degraded, degrade
from degradations.images import Uint8Image
from degradations.jpeg import decode_image
from degradations.recipes import Recipe
from degradations.resample import enlarge

_CELL = 256  # side of a face on the sheet, in pixels
_TEXT = 48  # height of the label below it
_COLUMNS = 3
_STEP_LABELS = {
    "blur": "{kernel} {ksize}: {sigma_x:.1f} x {sigma_y:.1f}",
    "downsample": "r {r:.1f}",
    "noise": "noise {sigma:.1f}",
    "jpeg": "quality {quality}",
}


def contact_sheet(hq: Uint8Image, recipe: Recipe, count: int, seed: int) -> Uint8Image:
    """(R, R, 3) to a sheet (H, W, 3), uint8 RGB: the face, then `count` samples; sample i has the seed [seed, i]."""
    cells = [_cell(hq, [recipe.name, f"HQ, {hq.shape[0]} px"])]
    for index in range(count):
        degraded = degrade(hq, recipe, np.random.default_rng([seed, index]))
        lq = enlarge(decode_image(degraded.jpeg), hq.shape[0])
        cells.append(_cell(lq, _label(degraded)))
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % _COLUMNS)
    rows = [np.concatenate(cells[start : start + _COLUMNS], axis=1) for start in range(0, len(cells), _COLUMNS)]
    return np.concatenate(rows)


def _label(degraded: Degraded) -> list[str]:
    """Two or more lines: what the steps drew, two to a line, and the size of the result."""
    words = [_STEP_LABELS[step["op"]].format(**step) for step in degraded.params["steps"]]
    words.append(f"{degraded.params['side']} px, {len(degraded.jpeg) / 1024:.1f} KB")
    return [words[0], ", ".join(words[1:-1]), words[-1]]


def _cell(image: Uint8Image, lines: list[str]) -> Uint8Image:
    """(_CELL + _TEXT, _CELL, 3): the image above its lines of text."""
    small = cv2.resize(image, (_CELL, _CELL), interpolation=cv2.INTER_AREA)
    cell = cv2.copyMakeBorder(small, 0, _TEXT, 0, 0, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    for number, line in enumerate(lines, start=1):
        cv2.putText(cell, line, (4, _CELL + 15 * number - 2), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
    return np.asarray(cell, dtype=np.uint8)
