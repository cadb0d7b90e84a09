"""Evaluating a restoration checkpoint on the validation faces of a dataset."""

from pathlib import Path

import pytest

from daefr.checkpoint import Checkpoint
from daefr.config import StageName
from daefr.data.dataset import FaceDataset, validation_batches
from daefr.data.images import to_8_bit
from daefr.errors import UserError
from daefr.evaluate import MEASURED, TILE_SIDE, TITLE_HEIGHT, evaluate
from daefr.metrics.fidelity import psnr, ssim
from tests.daefr import tiny


@pytest.mark.parametrize("batch", [1, 4])
def test_every_validation_face_is_measured(dataset: Path, checkpoints: dict[StageName, Checkpoint], batch: int) -> None:
    evaluation = evaluate(checkpoints["restoration"], dataset, batch=batch, faces=2)
    assert len(evaluation.rows) == sum(tiny.VALIDATION_SIZES)
    faces = FaceDataset(dataset, "validation", ("hq", "severe"))
    for row, images in zip(evaluation.rows, validation_batches(faces, batch=1), strict=True):
        assert set(row) == set(MEASURED)
        lq, hq = (to_8_bit(images[name]) for name in ("lq", "hq"))
        assert row["lq"] == pytest.approx({"psnr": psnr(lq, hq).item(), "ssim": ssim(lq, hq).item()}, rel=1e-5)
    mean = sum(row["restored"]["psnr"] for row in evaluation.rows) / len(evaluation.rows)
    assert evaluation.means()["restored"]["psnr"] == pytest.approx(mean)
    assert evaluation.grid.shape == (TITLE_HEIGHT + 2 * TILE_SIDE, 3 * TILE_SIDE, 3)


def test_only_restoration_can_be_evaluated(dataset: Path, checkpoints: dict[StageName, Checkpoint]) -> None:
    with pytest.raises(UserError, match="only a restoration checkpoint"):
        evaluate(checkpoints["association"], dataset, batch=1, faces=1)
