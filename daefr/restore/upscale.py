"""Larger backgrounds: by any upscaler that spandrel reads, tile by tile, or without one by resampling."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from daefr.errors import UserError, one_line
from daefr.photographs.deep import Pixels
from daefr.released import read_tensors

TILE = 384
MARGIN = 32
"""Pixels around a tile that the network sees too, so that tiles meet without a seam."""


class Upscaler:
    """A network that enlarges images."""

    def __init__(self, descriptor: Any, device: torch.device, tile: int = TILE) -> None:
        """Use a `spandrel.ImageModelDescriptor`; `load` makes one. Memory grows with `tile`, not with the image."""
        self._network, self._device, self._tile = descriptor.to(device).eval(), device, tile
        self.scale: int = descriptor.scale

    @classmethod
    def load(cls, path: Path, device: torch.device) -> "Upscaler":
        """Load a model file of any architecture that spandrel knows.

        Raises `UserError` when there is none, or when it does not enlarge RGB images.
        """
        import spandrel  # noqa: PLC0415  # takes seconds, which only those who enlarge have to wait for

        if not path.is_file():
            raise UserError(f"there is no upscaler at {path}; give a model file that spandrel reads")
        try:
            descriptor = spandrel.ModelLoader().load_from_state_dict(
                spandrel.canonicalize_state_dict(read_tensors(path))
            )
        except UserError:
            raise
        except Exception as error:  # what fits no architecture makes spandrel raise anything
            raise UserError(f"{path} is no upscaler that spandrel reads: {one_line(error, 200)}") from None
        if not isinstance(descriptor, spandrel.ImageModelDescriptor) or descriptor.scale < 2:
            raise UserError(f"{path} is no upscaler: it is {descriptor.architecture.name}, for {descriptor.purpose}")
        if (descriptor.input_channels, descriptor.output_channels) != (3, 3):
            raise UserError(f"{path} enlarges images of {descriptor.input_channels} channels, where 3 are wanted")
        return cls(descriptor, device)

    def __call__(self, image: Pixels) -> Pixels:
        """Enlarge (H, W, 3) uint8 or uint16 RGB `scale` times."""
        height, width = image.shape[:2]
        result = np.empty((height * self.scale, width * self.scale, 3), image.dtype)
        for rows, seen_rows in _tiles(height, self._tile):
            for columns, seen_columns in _tiles(width, self._tile):
                enlarged = self._enlarge(image[seen_rows, seen_columns])
                inner = (_within(rows, seen_rows, self.scale), _within(columns, seen_columns, self.scale))
                result[_times(rows, self.scale), _times(columns, self.scale)] = enlarged[inner]
        return result

    def _enlarge(self, tile: Pixels) -> Pixels:
        highest = np.iinfo(tile.dtype).max
        unit = torch.from_numpy(np.divide(tile, highest, dtype=np.float32)).permute(2, 0, 1)[None].to(self._device)
        with torch.inference_mode():
            enlarged = self._network(unit)[0]
        levels = enlarged.float().mul(highest).round().clamp(0, highest)
        return np.asarray(levels.permute(1, 2, 0).cpu().numpy(), tile.dtype)


def upscale_image(image: Pixels, scale: int, upscaler: Upscaler | None) -> Pixels:
    """Return an image (H, W, 3) or (H, W), uint8 or uint16, `scale` times as large.

    An upscaler of another scale is followed by resampling; without one, there is nothing but that (Lanczos).
    """
    if scale == 1:
        return image
    size = (image.shape[1] * scale, image.shape[0] * scale)
    if upscaler is not None:
        image = upscaler(image)
    if image.shape[1] == size[0]:
        return image
    shrinks = image.shape[1] > size[0]
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4)
    return np.asarray(resized, image.dtype)


def _tiles(length: int, tile: int) -> Iterator[tuple[slice, slice]]:
    """Yield the tiles along one side, each with what the network sees of it."""
    for start in range(0, length, tile):
        end = min(start + tile, length)
        yield slice(start, end), slice(max(0, start - MARGIN), min(length, end + MARGIN))


def _within(inner: slice, outer: slice, scale: int) -> slice:
    return slice((inner.start - outer.start) * scale, (inner.stop - outer.start) * scale)


def _times(part: slice, scale: int) -> slice:
    return slice(part.start * scale, part.stop * scale)
