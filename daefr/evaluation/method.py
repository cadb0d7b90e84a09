"""The interface of restoration methods, and DAEFR models behind it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from daefr.images import Image
from daefr.precision import evaluation_precision
from daefr.restore import FOR_RESTORING, open_model
from daefr.speed import arrange_batch, prepare_network
from daefr.stages import RestorationStage
from daefr.tensors import to_image, to_tensor


@dataclass(frozen=True)
class MethodOutput:
    """A restored face (R, R, 3) uint8 RGB, and its codes (N,) if the method has a codebook."""

    image: Image
    codes: NDArray[np.int64] | None = None


class Method(Protocol):
    """Restores aligned faces."""

    @property
    def resolution(self) -> int:
        """The side of the faces in pixels."""

    @property
    def codes(self) -> int | None:
        """The size of the codebook, None if there is none."""

    def restore(self, images: Sequence[Image]) -> list[MethodOutput]:
        """Restore faces, each (R, R, 3) uint8 RGB."""


class TrainedModel:
    """A DAEFR model, computed in `daefr.precision.evaluation_precision`."""

    def __init__(self, stage: RestorationStage, device: torch.device) -> None:
        """Use the model of a stage; `load` makes one from a checkpoint."""
        self._stage, self._device = prepare_network(stage, FOR_RESTORING, device).eval(), device
        self.resolution: int = stage.network.autoencoder.resolution
        self.codes: int = stage.network.autoencoder.codes

    @classmethod
    def load(cls, checkpoint: Path, device: torch.device) -> "TrainedModel":
        """Load a checkpoint directory or a released file. Raises like `daefr.restore.open_model`."""
        return cls(open_model(checkpoint), device)

    @torch.no_grad()
    def restore(self, images: Sequence[Image]) -> list[MethodOutput]:
        """See `Method`."""
        with evaluation_precision(self._device):
            output = self._stage.generator.restore(self._batch(images))
        codes = output.indices.cpu().numpy()
        return [MethodOutput(to_image(image), mine) for image, mine in zip(output.image, codes, strict=True)]

    @torch.no_grad()
    def reconstruct(self, images: Sequence[Image]) -> list[Image]:
        """Return HQ faces, (R, R, 3) uint8 RGB, decoded from their true codes."""
        with evaluation_precision(self._device):
            decoded = self._stage.generator.decode(self._stage.target(self._batch(images)).indices)
        return [to_image(image) for image in decoded]

    def _batch(self, images: Sequence[Image]) -> Tensor:
        stacked = torch.stack([to_tensor(image) for image in images])
        return arrange_batch({"images": stacked}, FOR_RESTORING, self._device)["images"]
