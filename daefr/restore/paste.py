"""Restored crops back into their photograph, without a seam and without touching anything else."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from daefr.faces.alignment import Matrix, move_points, scale_of
from daefr.images import Image
from daefr.photographs.deep import STEP, Pixels, is_deep
from daefr.restore.masks import Mask, face_mask

COARSE = 8
"""Colours are matched in an eighth of the crop's detail."""

MASK_DIMENSIONS = 2

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Patch:
    """What is pasted.

    `image`: (S, S, 3) uint8 RGB. `mask`: (M, M), how much of it is pasted where. `matrix`: the similarity that brings
    points of the photograph to the image, see `daefr.faces`.
    """

    image: Image
    mask: Mask
    matrix: Matrix


@dataclass(frozen=True)
class _Box:
    left: int
    top: int
    right: int
    bottom: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)


def match_colours(restored: Image, crop: Image) -> Image:
    """Give a restored crop (S, S, 3) the colours of what it was made from: what differs on a coarse scale is undone.

    So light and colour casts that fall on the face and around it go on across the pasted edge.
    """
    side = len(restored)
    coarse = max(1, side // COARSE)
    difference = crop.astype(np.float32) - restored.astype(np.float32)
    small = cv2.resize(difference, (coarse, coarse), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), max(coarse / COARSE, 0.5), borderType=cv2.BORDER_REPLICATE)
    smooth = cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(np.rint(restored + smooth), 0, 255), np.uint8)


def paste(photograph: Pixels, patches: Sequence[Patch]) -> Pixels:
    """Return a copy of a photograph (H, W, 3) uint8 or uint16 RGB with patches pasted into it.

    Where several faces meet, each keeps the others' faces free. A pixel that no mask covers keeps its value.
    """
    result = photograph.copy()
    height, width = photograph.shape[:2]
    boxes = [_box_of(patch, height, width) for patch in patches]
    for patch, box in zip(patches, boxes, strict=True):
        if box is None:
            continue
        mask = _placed_mask(patch.mask, patch, box)
        own = _placed_mask(face_mask(), patch, box)
        for other, place in zip(patches, boxes, strict=True):
            if other is not patch and place is not None and _meet(box, place):
                mask *= 1 - np.maximum(0, _placed_mask(face_mask(), other, box) - own)
        before = result[box.slices].astype(np.float32)
        placed = _placed(patch.image, patch.matrix, box) * (STEP if is_deep(photograph) else 1)
        after = before + mask[..., None] * (placed - before)
        result[box.slices] = np.clip(np.rint(after), 0, np.iinfo(result.dtype).max)
    return result


def _placed_mask(mask: Mask, patch: Patch, box: _Box) -> Floats:
    return _placed(mask, patch.matrix * (len(mask) / len(patch.image)), box)


def _box_of(patch: Patch, height: int, width: int) -> _Box | None:
    """Return the part of the photograph in which a patch lies, or None if it lies outside."""
    side = len(patch.image)
    corners = np.array([[0, 0], [side, 0], [side, side], [0, side]], np.float64)
    corners = move_points(corners, _inverse(patch.matrix))
    left, top = np.maximum(np.floor(corners.min(axis=0)), 0).astype(int)
    right, bottom = np.minimum(np.ceil(corners.max(axis=0)), (width, height)).astype(int)
    return _Box(left, top, right, bottom) if left < right and top < bottom else None


def _inverse(matrix: Matrix) -> Matrix:
    turn = np.linalg.inv(matrix[:, :2])
    return np.column_stack([turn, -turn @ matrix[:, 2]])


def _meet(a: _Box, b: _Box) -> bool:
    return a.left < b.right and b.left < a.right and a.top < b.bottom and b.top < a.bottom


def _placed(image: Image | Mask, matrix: Matrix, box: _Box) -> Floats:
    """Sample a patch's image or mask in a box of the photograph, without aliasing where that shrinks it."""
    finer = max(1, math.ceil(scale_of(matrix)))
    way = matrix.copy()
    way[:, :2] /= finer
    # from the middle of a pixel of the box to that of one of the patch
    way[:, 2] += matrix[:, :2] @ (box.left, box.top) + way[:, :2] @ (0.5, 0.5) - 0.5
    is_mask = image.ndim == MASK_DIMENSIONS
    size = (box.right - box.left, box.bottom - box.top)
    placed = cv2.warpAffine(
        image.astype(np.float32),
        way,
        (size[0] * finer, size[1] * finer),
        flags=cv2.WARP_INVERSE_MAP | (cv2.INTER_LINEAR if is_mask else cv2.INTER_CUBIC),
        borderMode=cv2.BORDER_CONSTANT if is_mask else cv2.BORDER_REPLICATE,
    )
    return np.asarray(cv2.resize(placed, size, interpolation=cv2.INTER_AREA), np.float32)
