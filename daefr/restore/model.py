"""The restoration network, from wherever it was stored, on batches of aligned crops."""

from collections.abc import Sequence
from pathlib import Path

import torch

from daefr.checkpoint import Checkpoint, load_checkpoint
from daefr.errors import UserError, one_line
from daefr.images import Image, fit
from daefr.photographs import ImageError
from daefr.released import read_restoration
from daefr.settings.speed import Speed
from daefr.speed import arrange_batch, autocast, prepare_network
from daefr.stages import RestorationStage, stage_from_checkpoint
from daefr.tensors import to_image, to_tensor

# compiling takes longer than restoring many faces, and the size of batches varies
FOR_RESTORING = Speed(channels_last=True, compile=False, cudnn_benchmark=False)


def load_restoration(directory: Path) -> Checkpoint:
    """Open a checkpoint directory. Raises `UserError` when it is none, is damaged, or is of another stage."""
    checkpoint = load_checkpoint(directory)
    if checkpoint.stage != "restoration":
        raise UserError(f"{directory} is a checkpoint of {checkpoint.stage}; restoring needs one of restoration")
    return checkpoint


def open_model(path: Path) -> RestorationStage:
    """Open a checkpoint directory, or a released `.ckpt` file.

    Raises `UserError` when it is neither, is damaged, or is of another stage.
    """
    if path.is_file():
        return read_restoration(path)
    stage = stage_from_checkpoint(load_restoration(path))
    assert isinstance(stage, RestorationStage)  # noqa: S101  # by its name
    return stage


class CropRestorer:
    """The network, ready to use on aligned crops."""

    def __init__(self, stage: RestorationStage, device: torch.device, speed: Speed) -> None:
        self._model = prepare_network(stage.generator, speed, device).eval()
        self._device, self._speed = device, speed
        self.resolution: int = stage.network.autoencoder.resolution

    def __call__(self, crops: Sequence[Image], batch: int) -> list[Image | ImageError]:
        """Restore crops (S, S, 3) uint8 RGB of any sides, `batch` of them at once.

        Returns one (R, R, 3) uint8 RGB at the model's resolution for each, or why there is none.
        """
        results: list[Image | ImageError] = []
        for start in range(0, len(crops), batch):
            results += self._restore(crops[start : start + batch])
        return results

    def resize(self, crop: Image) -> Image:
        """Return a square crop at the model's resolution, as the network sees it."""
        return fit(crop, self.resolution)

    def _restore(self, crops: Sequence[Image]) -> list[Image | ImageError]:
        lq = torch.stack([to_tensor(self.resize(crop)) for crop in crops])
        lq = arrange_batch({"lq": lq}, self._speed, self._device)["lq"]
        try:
            with autocast(self._speed, self._device):
                restored = self._model.restore(lq).image
        except NotImplementedError as error:  # what the device lacks, where falling back on the CPU is switched off
            raise UserError(f"{self._device} cannot compute this model: {one_line(error)}") from None
        except RuntimeError as error:  # for Apple's GPUs, lack of memory has no type of its own
            if "out of memory" not in str(error):
                raise
            raise UserError(f"{self._device} has too little memory for {len(crops)} faces at once") from None
        # a broken model's output would pass for an image
        finite = restored.isfinite().flatten(1).all(1).tolist()
        return [
            to_image(image) if whole else ImageError("the model's result is not finite")
            for image, whole in zip(restored, finite, strict=True)
        ]
