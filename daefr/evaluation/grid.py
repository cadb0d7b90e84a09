"""A grid of faces before and after restoration."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from daefr.images import Image

GRID_COLUMNS = {"hq": "HQ", "lq": "LQ", "restored": "restored"}
TITLE_HEIGHT = 28
TILE_SIDE = 192


def draw_grid(faces: Sequence[Mapping[str, Image]]) -> Image:
    """Draw HQ | LQ | restored with titles, one row per face; missing images are white."""
    rows = [np.hstack([_tile(face.get(name)) for name in GRID_COLUMNS]) for face in faces]
    return np.vstack([_titles(), *rows])


def _tile(image: Image | None) -> Image:
    side = (TILE_SIDE, TILE_SIDE)
    if image is None:
        return np.full((*side, 3), 255, np.uint8)
    # interpolation would make small images look better than they are
    method = cv2.INTER_NEAREST if image.shape[0] < TILE_SIDE else cv2.INTER_AREA
    return np.asarray(cv2.resize(image, side, interpolation=method), np.uint8)


def _titles() -> Image:
    row = np.full((TITLE_HEIGHT, TILE_SIDE * len(GRID_COLUMNS), 3), 255, np.uint8)
    for number, title in enumerate(GRID_COLUMNS.values()):
        (width, _), _ = cv2.getTextSize(title, cv2.FONT_HERSHEY_SIMPLEX, 0.6, 1)
        left = number * TILE_SIDE + (TILE_SIDE - width) // 2
        cv2.putText(row, title, (left, TITLE_HEIGHT - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
    return row
