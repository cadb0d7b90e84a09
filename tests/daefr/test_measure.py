"""`daefr measure` and `fid-statistics`: what they print and keep, and what they say of bad input."""

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
import torch

from daefr.__main__ import main
from daefr.images import Image
from daefr.metrics import fidelity
from daefr.metrics.fid import Inception
from daefr.metrics.pairs import AHEAD, Pair, batches, find_pairs, read_ahead
from tests.daefr import tiny

Captured = pytest.CaptureFixture[str]
Folders = tuple[Path, Path]
SIDE = 24


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in torch's cache, and no way to download."""

    def download(*_: Any, **__: Any) -> None:
        raise OSError("no way out")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder that holds NIQE's model and nothing else."""
    folder = tmp_path / "weights"
    folder.mkdir()
    tiny.niqe_model(folder / "niqe_pris_params.npz")
    return folder


def _write(path: Path, image: Image | np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[:, :, ::-1] if image.ndim == 3 and image.shape[2] == 3 else image)
    return path


def _face(seed: int, side: int = SIDE) -> Image:
    return tiny.face(np.random.default_rng(seed), side)


def _spoilt(image: Image) -> Image:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 1.5), np.uint8)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """Three restored images and their ground truth, of other suffixes and at two depths."""
    restored, target = tmp_path / "restored", tmp_path / "gt"
    for number, name in enumerate(("a", "b", "deep/c")):
        _write(target / f"{name}.webp", _face(number))
        hq = cv2.imread(str(target / f"{name}.webp"))[:, :, ::-1]
        _write(restored / f"{name}.png", _spoilt(hq))
    return restored, target


def _run(folders: Folders | tuple[Path], *more: str | Path) -> int:
    restored, *target = folders
    return main(
        ["measure", str(restored), *(["--gt", str(target[0])] if target else []), "--device", "cpu", *map(str, more)]
    )


def _values(folders: Folders) -> dict[str, list[float]]:
    """PSNR and SSIM of each image, by name."""
    values = {}
    for path in sorted(folders[0].rglob("*.png")):
        name = path.relative_to(folders[0]).with_suffix("")
        pair = [
            torch.from_numpy(cv2.imread(str(each))).permute(2, 0, 1)[None]
            for each in (path, (folders[1] / name).with_suffix(".webp"))
        ]
        values[name.as_posix()] = [fidelity.psnr(*pair).item(), fidelity.ssim(*pair).item()]
    return values


def test_the_means_are_printed(folders: Folders, capsys: Captured) -> None:
    assert _run(folders, "--metrics", "ssim,psnr") == 0
    psnr, ssim = np.mean(list(_values(folders).values()), axis=0)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "protocol paper; images: 3 measured, 0 missing, 0 failed"
    assert lines[1].split() == ["psnr", f"{psnr:.4f}", "dB"]
    assert lines[2].split() == ["ssim", f"{ssim:.4f}"]
    assert err == ""


@pytest.mark.parametrize("batch", ["1", "2", "8"])
def test_json_and_the_figures_of_each_image(folders: Folders, tmp_path: Path, batch: str, capsys: Captured) -> None:
    # another size starts another batch
    for folder in folders:
        _write(folder / f"b.{'png' if folder.name == 'restored' else 'webp'}", _face(7, 40))
    table = tmp_path / "each.csv"
    options = ("--metrics", "psnr,ssim", "--json", "--per-image", table, "--batch", batch, "--protocol", "standard")
    assert _run(folders, *options) == 0
    values = _values(folders)
    report = json.loads(capsys.readouterr().out)
    assert report["protocol"] == "standard"
    assert report["measured"] == 3
    assert (report["missing"], report["failed"]) == ([], {})
    assert report["metrics"]["ssim"] == {
        "value": pytest.approx(np.mean([row[1] for row in values.values()])),
        "images": 3,
    }
    rows = list(csv.DictReader(table.open()))
    assert [row["name"] for row in rows] == ["a", "b", "deep/c"]
    for row in rows:
        assert [float(row["psnr"]), float(row["ssim"])] == pytest.approx(values[row["name"]])
        assert row["problem"] == ""
    assert not list(tmp_path.glob(".*")), "what was written aside is renamed"


def test_equal_images_have_an_infinite_psnr_that_json_can_hold(folders: Folders, capsys: Captured) -> None:
    assert _run((folders[1], folders[1]), "--metrics", "psnr", "--json") == 0
    report = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    found = report["metrics"]["psnr"]
    assert (found["value"], found["images"], found["identical"]) == ("inf", 0, 3)


def test_one_identical_pair_does_not_hide_the_others(folders: Folders, capsys: Captured) -> None:
    expected = [values[0] for values in _values(folders).values()]
    same = _write(folders[1] / "same.png", _face(9))
    shutil.copy(same, folders[0])
    assert _run(folders, "--metrics", "psnr,ssim", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    found = report["metrics"]["psnr"]
    assert (found["value"], found["images"], found["identical"]) == (pytest.approx(np.mean(expected)), 3, 1)
    assert report["metrics"]["ssim"]["images"] == 4
    assert "identical" not in report["metrics"]["ssim"]
    assert _run(folders, "--metrics", "psnr") == 0
    assert "(of 3 images)  (1 identical to the ground truth)" in capsys.readouterr().out


def test_a_suffix_of_the_restored_images(folders: Folders, capsys: Captured) -> None:
    expected = _values(folders)
    _rename(folders)
    assert _run(folders, "--metrics", "psnr", "--json", "--suffix", "_00") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["metrics"]["psnr"]["value"] == pytest.approx(np.mean([row[0] for row in expected.values()]))
    for name in ("a_01", "a"):  # a second face, and what was not restored
        _write(folders[0] / f"{name}.png", _face(4))
    _write(folders[1] / "0_00.png", _face(5))
    _write(folders[0] / "0_00_00.png", _face(6))
    assert _run(folders, "--metrics", "psnr", "--json", "--suffix", "_00") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["measured"] == 4
    assert set(report["failed"]) == {"a_01", "a"}
    assert report["missing"] == []


def test_missing_and_unusable_images_are_named_counted_and_left_out(
    folders: Folders, tmp_path: Path, capsys: Captured
) -> None:
    restored, target = folders
    _write(target / "gone.png", _face(4))
    _write(restored / "extra.png", _face(4))
    for name, content in (("empty", b""), ("text", b"no image"), ("cut", (restored / "a.png").read_bytes()[:60])):
        (restored / f"{name}.png").write_bytes(content)
        _write(target / f"{name}.webp", _face(5))
    _write(restored / "small.png", _face(6, 20))
    _write(target / "small.webp", _face(6))
    PIL.Image.fromarray(_face(6)[..., 0].astype(np.float32)).save(restored / "float.tif")
    _write(target / "float.webp", _face(6))
    unusable = {"gone", "extra", "empty", "text", "cut", "small", "float"}
    expected = _values_of(folders, unusable)
    table = tmp_path / "each.csv"
    assert _run(folders, "--metrics", "psnr", "--json", "--per-image", table) == 1
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["missing"] == ["gone"]
    assert set(report["failed"]) == unusable - {"gone"}
    assert report["metrics"]["psnr"] == {"value": pytest.approx(np.mean(list(expected.values()))), "images": 3}
    lines = {line.split(": ")[1]: line for line in err.splitlines()}
    assert set(lines) == unusable
    for name, problem in {
        "gone": "missing: there is nothing restored for",
        "extra": "has no ground truth",
        "text": "not a readable image",
        "small": "has 20x20 pixels, its ground truth 24x24",
        "float": "32 bits a channel, where 8 or 16 are wanted",
    }.items():
        assert problem in lines[name]
    rows = {row["name"]: row for row in csv.DictReader(table.open())}
    assert len(rows) == 10
    assert rows["gone"]["psnr"] == ""
    assert "missing" in rows["gone"]["problem"]


def _values_of(folders: Folders, without: set[str]) -> dict[str, float]:
    kept = folders[0].parent / "kept"
    shutil.copytree(folders[0], kept)
    for name in without:
        (kept / f"{name}.png").unlink(missing_ok=True)
    return {name: values[0] for name, values in _values((kept, folders[1])).items()}


def test_gray_counts_as_color_alpha_is_ignored_and_16_bits_are_rounded(tmp_path: Path, capsys: Captured) -> None:
    gray = _face(0)[:, :, 0]
    color = np.repeat(gray[:, :, None], 3, axis=2)
    alpha = np.dstack([color, np.arange(gray.size, dtype=np.uint8).reshape(gray.shape)])
    target = _write(tmp_path / "color.png", color)
    for name, image in (("gray", gray), ("alpha", alpha), ("deep", color.astype(np.uint16) * 257)):
        assert _run((_write(tmp_path / f"{name}.png", image), target), "--metrics", "psnr") == 0
        assert "inf" in capsys.readouterr().out


def test_one_image_and_another(folders: Folders, capsys: Captured) -> None:
    restored, target = folders
    assert _run((restored / "a.png", target / "b.webp"), "--metrics", "psnr", "--json") == 0
    assert json.loads(capsys.readouterr().out)["measured"] == 1


def test_without_ground_truth_niqe_is_measured(tmp_path: Path, weights: Path, capsys: Captured) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (192, 192, 3)).astype(np.uint8)
    _write(tmp_path / "images" / "large.png", noise)
    _write(tmp_path / "images" / "small.png", noise[:100, :100])
    _write(tmp_path / "images" / "tiny.png", noise[:20, :20])
    assert _run((tmp_path / "images",), "--weights", weights) == 1
    out = capsys.readouterr().out
    assert "images: 3 measured" in out
    assert "niqe" in out
    assert "(of 1 images)" in out
    assert "2 left out: it needs at least 192x96 pixels" in out
    assert _run((tmp_path / "images" / "large.png",), "--weights", weights) == 0
    assert _run((tmp_path / "images" / "tiny.png",), "--weights", weights) == 1
    out = capsys.readouterr().out
    assert "niqe  unavailable: there is no image for which it is defined: it needs at least 192x96 pixels" in out
    _write(tmp_path / "images" / "least.png", noise[:96])
    assert _run((tmp_path / "images" / "least.png",), "--weights", weights) == 0


def test_what_is_missing_makes_one_measure_unavailable_and_no_number(
    folders: Folders, weights: Path, capsys: Captured
) -> None:
    (weights / "arcface_resnet18.pth").write_bytes(b"damaged")
    every = "psnr,ssim,lpips,fid,niqe,ida,lmd"
    assert _run(folders, "--metrics", every, "--weights", weights, "--json") == 1
    measures = json.loads(capsys.readouterr().out)["metrics"]
    assert list(measures["psnr"]) == ["value", "images"]
    for name, reason in {
        "lpips": "vgg16-397923af.pth, which is not in",
        "fid": "inception_FFHQ_512-f7b384ab.pth, which is not in",
        "niqe": "no image for which it is defined",
        "ida": "arcface_resnet18.pth is not arcface_resnet18.pth: it is damaged",
        "lmd": "no way out",
    }.items():
        assert list(measures[name]) == ["unavailable"]
        assert reason in measures[name]["unavailable"]
        assert "\n" not in measures[name]["unavailable"]
    assert _run((folders[0],), "--metrics", "ssim") == 1
    assert "ssim  unavailable: it needs ground truth" in capsys.readouterr().out


def _duplicate(folders: Folders) -> None:
    _write(folders[0] / "a.jpg", _face(0))


def _rename(folders: Folders) -> None:
    for path in folders[0].rglob("*.png"):
        path.rename(path.with_stem(f"{path.stem}_00"))


def _empty(folders: Folders) -> None:
    shutil.rmtree(folders[0])
    folders[0].mkdir()


def _file(folders: Folders) -> None:
    shutil.rmtree(folders[1])
    folders[1].touch()


@pytest.mark.parametrize(
    ("prepare", "options", "problem"),
    [
        (_duplicate, [], "have one name but for the suffix"),
        (_rename, [], "there is a_00 here and a there"),
        (_empty, [], "is empty; give an image or a folder of images"),
        (lambda folders: shutil.rmtree(folders[1]), [], "does not exist; give an image or a folder of images"),
        (None, ["--metrics", "psnr,psnrr"], "'psnrr' is none of psnr, ssim, lpips, fid, niqe, ida, lmd"),
        (None, ["--batch", "0"], "--batch 0"),
        (None, ["--weights", "nowhere"], "--weights nowhere is not a folder"),
        (None, ["--per-image", "nowhere/each.csv"], "nowhere/each.csv cannot be written"),
        (_file, [], "give two folders, or two images"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(
    folders: Folders,
    prepare: Callable[[Folders], None] | None,
    options: list[str],
    problem: str,
    capsys: Captured,
) -> None:
    if prepare is not None:
        prepare(folders)
    assert _run(folders, *options) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert problem in err


def test_only_a_few_images_are_read_ahead(folders: Folders) -> None:
    taken = 0

    def endless() -> Iterator[Pair]:
        nonlocal taken
        while True:
            taken += 1
            yield Pair("a", folders[0] / "a.png", folders[1] / "a.webp")

    stream = batches(read_ahead(endless()), 2)
    for number in range(1, 21):
        assert len(next(stream)) == 2  # type: ignore[arg-type]
        assert taken <= 2 * number + AHEAD + 2


def test_pairs_are_in_order_of_their_names(folders: Folders) -> None:
    assert [pair.name for pair in find_pairs(*folders)] == ["a", "b", "deep/c"]


def test_fid_statistics_of_a_folder(folders: Folders, weights: Path, tmp_path: Path, capsys: Captured) -> None:
    torch.manual_seed(0)
    torch.save(Inception().network.state_dict(), weights / "pt_inception-2015-12-05-6726825d.pth")
    statistics = tmp_path / "own.npz"
    (folders[1] / "broken.png").write_bytes(b"no image")
    command = ["fid-statistics", str(folders[1]), str(statistics), "--weights", str(weights), "--device", "cpu"]
    assert main(command) == 1
    out, err = capsys.readouterr()
    assert out == f"statistics of 3 images in {statistics}, 1 failed\n"
    assert "broken" in err
    (folders[1] / "broken.png").unlink()
    fid = ("--metrics", "fid", "--fid-statistics", statistics, "--weights", weights, "--json")
    assert _run((folders[1],), *fid) == 0
    same = json.loads(capsys.readouterr().out)["metrics"]["fid"]
    assert (same["value"], same["images"]) == (pytest.approx(0, abs=1e-4), 3)
    assert any("2048" in note for note in same["notes"])


@pytest.mark.parametrize("target", ["nowhere/own.npz", "own.pth"])
def test_fid_statistics_need_a_place(folders: Folders, target: str, capsys: Captured) -> None:
    assert main(["fid-statistics", str(folders[1]), target]) == 2
    assert capsys.readouterr().err == f"error: {target} cannot be written: give an .npz file in a folder that exists\n"
