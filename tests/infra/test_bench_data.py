"""The benchmark of samples: that both sides make the same, and what the command prints."""

import json
from pathlib import Path

import numpy as np
import pytest

from daefr.data.dataset import FaceDataset
from daefr.data.order import Position
from daefr.images import encode_png
from daefr.portraits import draw_portrait
from daefr.tensors import to_tensor
from infra.benchmarks.__main__ import main
from infra.benchmarks.data import PlainDataset, SampleCosts, Stopwatch, _degrade, write_dataset


def _run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> SampleCosts:
    assert main(["data", *arguments]) == 0
    return SampleCosts(**json.loads(capsys.readouterr().out))


def test_both_sides_read_the_same_samples(tmp_path: Path) -> None:
    watch = Stopwatch()
    made = _degrade([draw_portrait(seed, 64).image for seed in range(2)], 3, watch)
    assert watch.ours > 0 and watch.plain > 0
    write_dataset(made, tmp_path)
    options = {"parts": ("hq", "severe"), "flip": True, "draw": True}
    ours = FaceDataset(tmp_path, "train", **options)  # type: ignore[arg-type]
    plain = PlainDataset(made, tmp_path, "train", **options)
    for position in (Position(epoch, 0, sample) for epoch in range(3) for sample in range(2)):
        read, made_again = ours[position], plain[position]
        read = {name: to_tensor(image.numpy()) for name, image in read.items()}
        assert (read["hq"] == made_again["hq"]).all()
        # a pixel that is rounded otherwise before the JPEG may change a coefficient in it
        assert (read["lq"] - made_again["lq"]).abs().mean() < 0.1 / 127.5
    positions = [Position(0, 0, 0), Position(0, 0, 1)]
    assert (to_tensor(ours[positions[0]]["lq"].numpy()) - plain[positions[1]]["lq"]).abs().mean() > 5 / 127.5


def test_the_command_measures_portraits(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = _run(["--faces", "2", "--variants", "2", "--resolution", "64"], capsys)
    assert metrics.largest_difference <= 1
    assert metrics.synthesis_speedup == pytest.approx(
        metrics.faces_per_second / metrics.plain_faces_per_second, rel=1e-3
    )
    assert metrics.loader_speedup == pytest.approx(
        metrics.samples_per_second / metrics.plain_samples_per_second, rel=1e-3
    )


def test_small_jpegs_take_less_room_than_large_pngs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(2):
        (tmp_path / f"{seed}.png").write_bytes(encode_png(draw_portrait(seed, 256).image))
    (tmp_path / "wide.png").write_bytes(encode_png(np.zeros((256, 300, 3), np.uint8)))
    (tmp_path / "notes.txt").write_text("no image")
    one, four = (_run([str(tmp_path), "--variants", n, "--resolution", "256"], capsys) for n in ("1", "4"))
    assert one.largest_difference <= 1
    assert 0.05 < four.bytes_ratio < one.bytes_ratio < 0.7


@pytest.mark.parametrize(("arguments", "problem"), [
    (["nowhere"], "nowhere"),
    (["."], "512"),
    (["--variants", "0"], "--variants=0"),
])  # fmt: skip
def test_nothing_to_measure_is_one_line(
    arguments: list[str],
    problem: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1 and problem in message
