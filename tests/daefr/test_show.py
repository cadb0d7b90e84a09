"""`daefr data show`: what it prints and draws of a dataset."""

import json
from pathlib import Path

import numpy as np
import pytest

from daefr.cli import main
from daefr.data.manifest import load_manifest, write_dataset_manifest
from daefr.data.shards import write_shard
from daefr.data.show import CELL
from daefr.faces.components import component_boxes
from daefr.faces.rejection import Rejection
from daefr.faces.template import template_landmarks
from daefr.images import decode_image, encode_lossless
from tests.daefr import tiny

SIDE = 64
FACES = 3


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three red faces whose LQ images are green and blue."""
    about = {
        "source": "a/face.png",
        "components": component_boxes(template_landmarks(SIDE), SIDE),
        "components_from": "template",
        "variants": {"mild": [{"side": 30}], "severe": [{"side": 8}]},
    }
    red, green, blue = (np.full((SIDE, SIDE, 3), colour, np.uint8) for colour in np.eye(3, dtype=np.uint8) * 255)
    samples = [
        {
            "__key__": f"{number:08d}",
            "hq.webp": encode_lossless(red),
            "mild.0.jpg": tiny.encode_jpeg(green, 30),
            "severe.0.jpg": tiny.encode_jpeg(blue, 8),
            "json": json.dumps(about).encode(),
        }
        for number in range(FACES)
    ]
    folder = tmp_path / "dataset"
    write_dataset_manifest(
        folder,
        resolution=SIDE,
        recipes={"mild": "daefr-mild", "severe": "daefr-severe"},
        variants={"mild": 1, "severe": 1},
        seed=7,
        train=[write_shard(folder / "train-000000.tar", samples)],
        validation=[],
        rejected=[Rejection(source=f"{side}.png", reason=f"too small: {side} pixels") for side in range(5)],
    )
    return folder


def test_a_dataset_is_told_and_drawn(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sheets" / "sheet.png"
    assert main(["data", "show", str(dataset / "manifest.json"), "--out", str(out), "--faces", "2"]) == 0
    told = capsys.readouterr().out
    made = load_manifest(dataset)
    for line in (
        "64x64 pixels, LQ images of a training face: 1 mild (daefr-mild), 1 severe (daefr-severe); seed 7",
        f"train: 3 samples in 1 shards, {made.train.bytes / 1e6:.1f} MB",
        "validation: 0 samples in 0 shards, 0.0 MB",
        "rejected: 5\n  5 too small, such as 0.png (too small: 0 pixels); 1.png",
        f"sheet: {out}",
    ):
        assert line in told
    sheet = decode_image(out.read_bytes())
    row, column = sheet.shape[0] // 2, sheet.shape[1] // 3
    for face in range(2):
        top = face * row
        for number in range(3):
            corner = sheet[top + 5 : top + 30, number * column + 5 : number * column + 30].reshape(-1, 3)
            expected = np.eye(3)[number] * 255
            assert np.abs(corner - expected).max() < 30
    hq = sheet[:CELL, :CELL].reshape(-1, 3)
    for colour in ((255, 220, 0), (0, 220, 255), (255, 0, 200)):
        assert (hq == colour).all(axis=1).sum() > 50, "the boxes are drawn"


def test_a_dataset_whose_shards_are_elsewhere_is_told(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (dataset / "train-000000.tar").unlink()
    assert main(["data", "show", str(dataset)]) == 0
    assert "sheet: none, as no shard is in" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [(["nowhere"], "nowhere is not a dataset"), (["dataset", "--faces", "0"], "--faces is 0; it must be 1 or more"),
     (["dataset", "--out", "dataset"], "--out dataset cannot be written")],
)  # fmt: skip
def test_a_mistake_is_one_line(
    dataset: Path,
    arguments: list[str],
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(dataset.parent)
    assert main(["data", "show", *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1 and problem in message
