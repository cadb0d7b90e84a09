"""Restoring aligned face crops with a trained model."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from daefr.checkpoint import load_checkpoint
from daefr.data.images import MAX_PIXELS, Image, decode_image, find_images, shrink, to_image, to_tensor, write_png
from daefr.errors import UserError
from daefr.speed import Speed
from daefr.stages import RestorationStage, stage_from_checkpoint

# which takes longer than restoring many faces
FOR_RESTORING = Speed(channels_last=True, compile=False)


class Restorer:
    """A restoration model that is ready to use."""

    def __init__(self, stage: RestorationStage, device: torch.device, speed: Speed = FOR_RESTORING) -> None:
        """Use the model of a stage; `load` makes one from a checkpoint."""
        self._model = speed.prepare(stage.generator, device).eval()
        self._device, self._speed = device, speed
        self.resolution: int = stage.network.autoencoder.resolution

    @classmethod
    def load(cls, checkpoint: Path, device: torch.device | None = None) -> "Restorer":
        """Load a checkpoint directory. Raises `UserError` when it is none, is damaged, or is of another stage."""
        opened = load_checkpoint(checkpoint)
        if opened.stage != "restoration":
            raise UserError(f"{checkpoint} is a checkpoint of {opened.stage}; restoring needs one of restoration")
        stage = stage_from_checkpoint(opened)
        assert isinstance(stage, RestorationStage)  # noqa: S101  # by its name
        return cls(stage, device or torch.device("cpu"))

    def __call__(self, image: Image) -> Image:
        """Restore one aligned crop, (S, S, 3) uint8 RGB of any side: (R, R, 3) uint8 RGB at the model's resolution.

        Raises `ValueError` when the image is not square.
        """
        height, width = image.shape[:2]
        if height != width:
            raise ValueError(f"not square: {width}x{height} pixels, where an aligned crop is wanted")
        batch = self._speed.arrange({"lq": to_tensor(self._resize(image))[None]}, self._device)
        with self._speed.autocast_on(self._device):
            restored = self._model.restore(batch["lq"])
        return to_image(restored.image[0])

    def _resize(self, image: Image) -> Image:
        if image.shape[0] >= self.resolution:
            return shrink(image, self.resolution)
        side = (self.resolution, self.resolution)
        return np.asarray(cv2.resize(image, side, interpolation=cv2.INTER_LINEAR), np.uint8)


@dataclass(frozen=True)
class Outcome:
    """What became of one file: where its restored image is, or why there is none."""

    source: Path
    target: Path | None
    problem: str = ""


def restore_files(restorer: Restorer, source: Path, target: Path) -> Iterator[Outcome]:
    """Restore a file, or every file below a folder, into PNG files below the folder `target`, one at a time.

    A folder's structure is kept. A file that cannot be restored yields its problem, and nothing is written for it.
    Raises `UserError` when `source` does not exist or is an empty folder, when two files would become one, or when
    `target` cannot be written to.
    """
    for path, result in _pairs(source, target).items():
        try:
            restored = restorer(decode_image(path.read_bytes(), MAX_PIXELS))
        except (OSError, ValueError) as error:
            yield Outcome(path, None, str(error))
            continue
        try:
            write_png(result, restored)
        except OSError as error:
            raise UserError(f"{result} cannot be written: {error.strerror}") from None
        yield Outcome(path, result)


def count_files(source: Path) -> int:
    """Return how many files `restore_files` would look at."""
    return 1 if source.is_file() else len(find_images(source))


def _pairs(source: Path, target: Path) -> dict[Path, Path]:
    if source.is_file():
        return {source: target if target.suffix.lower() == ".png" else target / f"{source.stem}.png"}
    if not source.is_dir():
        raise UserError(f"{source} does not exist; give an image or a folder of aligned face crops")
    pairs = {path: (target / path.relative_to(source)).with_suffix(".png") for path in find_images(source)}
    if not pairs:
        raise UserError(f"{source} is empty; give an image or a folder of aligned face crops")
    taken: dict[Path, Path] = {}
    for path, result in pairs.items():
        if result in taken:
            raise UserError(f"{taken[result]} and {path} would both become {result}; rename one")
        taken[result] = path
    return pairs
