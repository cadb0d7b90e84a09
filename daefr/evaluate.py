"""How well a restoration model restores the validation faces of a dataset."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from daefr.checkpoint import Checkpoint
from daefr.data.dataset import FaceDataset, Fetch, check_resolution, validation_batches
from daefr.data.images import Image, to_8_bit
from daefr.errors import UserError
from daefr.metrics.fidelity import psnr, ssim
from daefr.stages import RestorationStage, stage_from_checkpoint

COLUMNS = {"hq": "HQ", "lq": "LQ", "restored": "restored"}
MEASURED = ("lq", "hq codebook", "restored")
TITLE_HEIGHT = 28
TILE_SIDE = 192


@dataclass(frozen=True)
class Evaluation:
    """PSNR (dB) and SSIM of each validation face: one row a face, `{"lq": {"psnr": ..., "ssim": ...}, ...}`; a grid."""

    rows: list[dict[str, dict[str, float]]]
    grid: Image

    def means(self) -> dict[str, dict[str, float]]:
        """Return the mean of every measure."""
        return {
            name: {measure: float(np.mean([row[name][measure] for row in self.rows])) for measure in ("psnr", "ssim")}
            for name in MEASURED
        }


@torch.no_grad()
def evaluate(
    checkpoint: Checkpoint,
    dataset: Path,
    *,
    batch: int,
    faces: int,
    device: torch.device | None = None,
    fetch: Fetch | None = None,
) -> Evaluation:
    """Restore all validation faces; measure LQ, HQ-codebook reconstruction and restoration against HQ.

    `faces` of them go into the grid HQ | LQ | restored; `fetch` brings shards that are not beside their manifest.
    Raises `UserError` unless the checkpoint is of the restoration stage and the dataset is of its resolution.
    """
    stage = stage_from_checkpoint(checkpoint)
    if not isinstance(stage, RestorationStage):
        raise UserError(f"{checkpoint.path} is of {checkpoint.stage}; only a restoration checkpoint can be evaluated")
    device = device or torch.device("cpu")
    stage.to(device)
    faces_set = FaceDataset(dataset, "validation", stage.parts, fetch=fetch)
    check_resolution(faces_set.manifest, stage.network.autoencoder.resolution, str(checkpoint.path))
    rows: list[dict[str, dict[str, float]]] = []
    strips: list[Image] = []
    for cpu_images in validation_batches(faces_set, batch=batch):
        images = {name: image.to(device) for name, image in cpu_images.items()}
        pictures = stage.pictures(stage.generator(images["lq"]), images)
        shown = {name: to_8_bit(column) for name, column in pictures.items()}
        hq = shown["hq"]
        measured = {
            name: {"psnr": psnr(shown[name], hq).tolist(), "ssim": ssim(shown[name], hq).tolist()} for name in MEASURED
        }
        for number in range(len(hq)):
            rows.append(
                {name: {measure: each[number] for measure, each in row.items()} for name, row in measured.items()}
            )
            if len(strips) < faces:
                strips.append(np.hstack([_tile(shown[name][number]) for name in COLUMNS]))
    return Evaluation(rows, np.vstack([_titles(), *strips]))


def _tile(tensor: Tensor) -> Image:
    image = tensor.permute(1, 2, 0).contiguous().cpu().numpy()
    # small images are shown with their pixels, not smoothed into something better than they are
    method = cv2.INTER_NEAREST if image.shape[0] < TILE_SIDE else cv2.INTER_AREA
    return np.asarray(cv2.resize(image, (TILE_SIDE, TILE_SIDE), interpolation=method), np.uint8)


def _titles() -> Image:
    row = np.full((TITLE_HEIGHT, TILE_SIDE * len(COLUMNS), 3), 255, np.uint8)
    for number, title in enumerate(COLUMNS.values()):
        (width, _), _ = cv2.getTextSize(title, cv2.FONT_HERSHEY_SIMPLEX, 0.6, 1)
        left = number * TILE_SIDE + (TILE_SIDE - width) // 2
        cv2.putText(row, title, (left, TITLE_HEIGHT - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
    return row
