"""Restoring faces: by the command line, and by its parts."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from daefr.__main__ import main
from daefr.checkpoint import Checkpoint
from daefr.faces.detected import DetectedFace
from daefr.faces.detector import Detector
from daefr.images import Image, decode_image, encode_png
from daefr.outputs import RECORD
from daefr.restore import ImageError, Restorer, Wanted, list_files, read_photograph, restore_files, result_name
from daefr.restore.metadata import type_of_content
from daefr.restore.names import type_of_name
from daefr.settings.base import StageName
from daefr.settings.restore import Format
from tests.daefr import tiny
from tests.daefr.photographs import Told, photograph

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(checkpoints: dict[StageName, Checkpoint]) -> Path:
    return checkpoints["restoration"].path


@pytest.fixture(scope="module")
def restorer(model: Path) -> Restorer:
    return Restorer.load(model)


def _face(seed: int, side: int = tiny.SIDE) -> Image:
    return tiny.face(np.random.default_rng(seed), side)


def _write(path: Path, image: Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[:, :, ::-1])
    return path


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """A folder with faces of several kinds and sizes at several depths."""
    folder = tmp_path / "faces"
    for number, (name, side) in enumerate({"one.png": 16, "a/two.jpg": 40, "a/b/three.webp": 9}.items()):
        _write(folder / name, _face(number, side))
    return folder


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def _results(folder: Path) -> set[str]:
    return {name for name in _files(folder) if not name.startswith(".")}


def _restored(restorer: Restorer, crop: Image) -> Image:
    return restorer(crop, aligned=True).image


def _run(source: Path, target: Path, model: Path, *more: str) -> int:
    return main(["restore", str(source), str(target), "--model", str(model), "--device", "cpu", "--aligned", *more])


def _assert_one_line(captured: Captured, *parts: str) -> None:
    out, err = captured.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err


def test_a_folder_keeps_its_structure(
    faces: Path, tmp_path: Path, model: Path, restorer: Restorer, capsys: Captured
) -> None:
    out = tmp_path / "out"
    assert _run(faces, out, model) == 0
    assert _results(out) == {"one.png", "a/two.jpg.png", "a/b/three.webp.png"}
    for name in ("one.png", "a/two.jpg", "a/b/three.webp"):
        written = decode_image((out / result_name(name, "png")).read_bytes())
        assert written.shape == (tiny.SIDE, tiny.SIDE, 3)
        assert np.array_equal(written, restorer(faces / name, aligned=True).image)
    assert capsys.readouterr().out == "3 restored, 0 without a face, 0 skipped, 0 failed\n"


@pytest.mark.parametrize("target", ["out", "deep/face.png"])
def test_a_single_file(faces: Path, tmp_path: Path, model: Path, restorer: Restorer, target: str) -> None:
    written = target if target.endswith(".png") else f"{target}/one.png"
    before = _files(tmp_path)
    assert _run(faces / "one.png", tmp_path / target, model) == 0
    assert _files(tmp_path) - before == {written, str(Path(written).with_name(RECORD))}
    assert np.array_equal(decode_image((tmp_path / written).read_bytes()), _restored(restorer, _face(0)))


def test_running_again_goes_on_where_it_stopped(
    faces: Path, tmp_path: Path, model: Path, restorer: Restorer, capsys: Captured
) -> None:
    out = tmp_path / "out"
    wanted, settings = Wanted(aligned=True), {"as": "before"}
    next(restore_files(restorer, faces, out, wanted, settings=settings, batch=1))
    assert len(_results(out)) == 1
    statuses = [each.status for each in restore_files(restorer, faces, out, wanted, settings=settings, batch=2)]
    assert statuses == ["skipped", "restored", "restored"]
    assert _run(faces, out, model) == 0, "other settings, so nothing is skipped"
    assert _run(faces, out, model) == 0
    first = {name: (out / name).read_bytes() for name in _results(out)}
    _write(faces / "a" / "two.jpg", _face(7))
    assert _run(faces, out, model) == 0
    assert {name for name in first if (out / name).read_bytes() != first[name]} == {"a/two.jpg.png"}
    assert capsys.readouterr().out == (
        "3 restored, 0 without a face, 0 skipped, 0 failed\n"
        "0 restored, 0 without a face, 3 skipped, 0 failed\n"
        "1 restored, 0 without a face, 2 skipped, 0 failed\n"
    )


def test_an_interrupted_run_says_what_it_did(
    faces: Path, tmp_path: Path, model: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore_all, calls = Restorer.restore_all, []

    def interrupted(*given: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return restore_all(*given, **options)

    monkeypatch.setattr(Restorer, "restore_all", interrupted)
    assert _run(faces, tmp_path / "out", model, "--batch", "1") == 130
    out, err = capsys.readouterr()
    assert out == "1 restored, 0 without a face, 0 skipped, 0 failed\n"
    assert err == "interrupted; run again, it goes on from here\n"
    assert len(_results(tmp_path / "out")) == 1


def test_results_do_not_take_the_place_of_photographs(faces: Path, model: Path, capsys: Captured) -> None:
    before = {name: (faces / name).read_bytes() for name in _files(faces)}
    for source, target in ((faces, faces), (faces / "one.png", faces), (faces / "one.png", faces / "one.png")):
        assert _run(source, target, model) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert "give another " in err
    assert {name: (faces / name).read_bytes() for name in _files(faces)} == before
    for _ in range(2):
        assert _run(faces, faces / "results", model, "--suffix", "_r") == 0
    assert _results(faces / "results") == {"one_r.png", "a/two.jpg_r.png", "a/b/three.webp_r.png"}
    assert capsys.readouterr().out.endswith("\n0 restored, 0 without a face, 3 skipped, 0 failed\n")


@pytest.mark.parametrize("suffix", ["/../x", "a/b", "\n"])
def test_a_suffix_is_part_of_a_name(faces: Path, tmp_path: Path, model: Path, capsys: Captured, suffix: str) -> None:
    assert _run(faces, tmp_path / "out", model, f"--suffix={suffix}") == 2
    _assert_one_line(capsys, "--suffix", "is no part of a file's name")


def test_before_and_after_beside_each_other(faces: Path, tmp_path: Path, model: Path, restorer: Restorer) -> None:
    assert _run(faces / "one.png", tmp_path / "out", model, "--side-by-side") == 0
    written = decode_image((tmp_path / "out" / "one.png").read_bytes())
    assert np.array_equal(written, np.concatenate([_face(0), _restored(restorer, _face(0))], axis=1))


def test_photographs_are_restored_and_those_without_a_face_copied(
    tmp_path: Path, model: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, face = photograph(1, 300, zoom=0.4)

    class ByBrightness:
        def find(self, image: Image) -> list[DetectedFace]:
            return [face] if image.mean() > 20 else []

    monkeypatch.setattr(Detector, "load", lambda *_: ByBrightness())
    source, out = tmp_path / "in", tmp_path / "out"
    _write(source / "a" / "someone.png", image)
    _write(source / "nobody.jpg", image // 20)
    command = ["restore", str(source), str(out), "--model", str(model), "--device", "cpu"]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert captured.out == "1 restored, 1 without a face, 0 skipped, 0 failed\n"
    assert captured.err == f"1 face: {source / 'a' / 'someone.png'}\nno face, copied: {source / 'nobody.jpg'}\n"
    assert _results(out) == {"a/someone.png", "nobody.jpg.png"}
    copy = decode_image((out / "nobody.jpg.png").read_bytes())
    assert np.array_equal(copy, read_photograph(source / "nobody.jpg").pixels)
    library = Restorer.load(model, "cpu")
    assert np.array_equal(decode_image((out / "a" / "someone.png").read_bytes()), library(image).image)
    assert main(command) == 0
    assert capsys.readouterr().out == "0 restored, 0 without a face, 2 skipped, 0 failed\n"
    assert main([*command, "--upscale", "2"]) == 0
    assert capsys.readouterr().out == "1 restored, 1 without a face, 0 skipped, 0 failed\n"
    assert _results(out) == {"a/someone.png", "nobody.jpg.png"}
    assert decode_image((out / "nobody.jpg.png").read_bytes()).shape == (600, 600, 3)
    assert main([*command[:2], str(tmp_path / "same"), *command[3:], "--format", "same"]) == 0
    assert _results(tmp_path / "same") == {"a/someone.png", "nobody.jpg"}
    assert (tmp_path / "same" / "nobody.jpg").read_bytes() == (source / "nobody.jpg").read_bytes()


def test_what_cannot_be_restored_is_counted_and_nothing_is_written_for_it(
    faces: Path, tmp_path: Path, model: Path, capsys: Captured
) -> None:
    (faces / "text.png").write_text("no image")
    (faces / "a" / "empty.jpg").write_bytes(b"")
    (faces / "half.png").write_bytes(encode_png(_face(3))[:60])
    _write(faces / "wide.png", _face(4)[:9])
    out = tmp_path / "out"
    assert _run(faces, out, model) == 1
    assert _results(out) == {"one.png", "a/two.jpg.png", "a/b/three.webp.png"}
    captured = capsys.readouterr()
    assert captured.out == "3 restored, 0 without a face, 0 skipped, 4 failed\n"
    failures = [line for line in captured.err.splitlines() if line.startswith("failed: ")]
    assert len(failures) == 4
    for name in ("text.png", "empty.jpg", "half.png", "wide.png"):
        assert sum(name in line for line in failures) == 1
    assert sum("not square: 16x9 pixels" in line for line in failures) == 1


def test_a_single_broken_file(tmp_path: Path, model: Path, capsys: Captured) -> None:
    (tmp_path / "face.png").write_text("no image")
    assert _run(tmp_path / "face.png", tmp_path / "out", model) == 1
    assert not (tmp_path / "out").exists()
    assert capsys.readouterr().out == "0 restored, 0 without a face, 0 skipped, 1 failed\n"


def test_hidden_files_are_passed_over(faces: Path, tmp_path: Path, model: Path) -> None:
    (faces / ".DS_Store").write_text("no image")
    _write(faces / ".cache" / "face.png", _face(5))
    assert len(list_files(faces, tmp_path / "out")) == 3
    assert _run(faces, tmp_path / "out", model) == 0


def test_a_missing_source_is_refused(tmp_path: Path, model: Path, capsys: Captured) -> None:
    assert _run(tmp_path / "nowhere", tmp_path / "out", model) == 2
    _assert_one_line(capsys, "nowhere does not exist")
    (tmp_path / "empty").mkdir()
    assert _run(tmp_path / "empty", tmp_path / "out", model) == 2
    _assert_one_line(capsys, "empty is empty")
    assert not (tmp_path / "out").exists()


def test_what_is_no_checkpoint_is_refused(faces: Path, tmp_path: Path, capsys: Captured) -> None:
    assert _run(faces, tmp_path / "out", tmp_path / "nowhere") == 2
    _assert_one_line(capsys, "nowhere")
    assert _run(faces, tmp_path / "out", faces) == 2
    _assert_one_line(capsys, "checkpoint directory")


@pytest.mark.parametrize("stage", ["hq_codebook", "lq_codebook", "association"])
def test_a_checkpoint_of_another_stage_is_refused(
    faces: Path, tmp_path: Path, checkpoints: dict[StageName, Checkpoint], capsys: Captured, stage: StageName
) -> None:
    assert _run(faces, tmp_path / "out", checkpoints[stage].path) == 2
    _assert_one_line(capsys, f"is a checkpoint of {stage}; restoring needs one of restoration")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("device", ["gpu", "cudda", "", "meta"])
def test_a_device_that_is_not_there_is_refused(
    faces: Path, tmp_path: Path, model: Path, capsys: Captured, device: str
) -> None:
    assert _run(faces, tmp_path / "out", model, "--device", device) == 2
    _assert_one_line(capsys, f"--device {device}")


@pytest.mark.parametrize("wanted", ["png", "jpg", "same"])
def test_files_that_come_later_change_no_name(faces: Path, tmp_path: Path, model: Path, wanted: Format) -> None:
    out, names = tmp_path / "out", ["one.png", "a/two.jpg", "a/b/three.webp"]
    assert _run(faces, out, model, "--format", wanted) == 0
    first = {name: (out / name).read_bytes() for name in _results(out)}
    for number, name in enumerate(("one.jpg", "one.jpeg", "one.png.jpg", "one.jpg.png", "a/two.png", "a/b/three.tif")):
        _write(faces / name, _face(6 + number))
        names.append(name)
    assert _run(faces, out, model, "--format", wanted) == 0
    assert _results(out) == {result_name(name, wanted) for name in names}
    assert len(_results(out)) == len(names)
    assert {name: (out / name).read_bytes() for name in first} == first


@pytest.mark.parametrize("name", ["x.jpg", "x.JPEG", "x.png", "x.webp", "x.tif"])
def test_a_named_file_is_made_under_that_name_and_in_that_format(
    faces: Path, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(Detector, "load", lambda *_: Told([]))
    for more in ([], ["--aligned"]):  # without a face and with one
        target = tmp_path / f"out{len(more)}" / name
        command = ["restore", str(faces / "a" / "two.jpg"), str(target), "--model", str(model), "--device", "cpu"]
        assert main([*command, *more]) == 0
        assert _results(target.parent) == {name}
        assert type_of_content(target.read_bytes()) == type_of_name(name)


@pytest.mark.parametrize("name", ["x.gif", "x.bmp", "x.HEIC", "x.avif", "x.pdf", "x.mp4", "x.txt"])
def test_a_named_file_that_is_not_made_is_refused(
    faces: Path, tmp_path: Path, model: Path, capsys: Captured, name: str
) -> None:
    assert _run(faces / "one.png", tmp_path / "out" / name, model) == 2
    _assert_one_line(capsys, name, "jpg, png, webp, tiff")
    assert _run(faces / "one.png", tmp_path / "out" / "x.jpg", model, "--format", "png") == 2
    _assert_one_line(capsys, "x.jpg", "png")
    assert _run(faces, tmp_path / "out" / "x.jpg", model) == 2
    _assert_one_line(capsys, "x.jpg", "is a folder")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out" / name).mkdir(parents=True)
    assert _run(faces / "one.png", tmp_path / "out" / name, model) == 0, "a folder may have any name"


def test_only_a_photograph_that_failed_is_a_failure(faces: Path, tmp_path: Path, model: Path, capsys: Captured) -> None:
    for name in ("Thumbs.db", "desktop.ini", "one.json", "film.mp4", "a/notes.txt", "a/raw.dng"):
        (faces / name).write_bytes(b"II*\0 no image")
    (faces / "a" / "no suffix").write_bytes((faces / "a" / "two.jpg").read_bytes())
    elsewhere = tmp_path / "elsewhere"
    _write(elsewhere / "four.png", _face(4))
    (faces / "album").symlink_to(elsewhere)
    (faces / "round").symlink_to(faces)
    (faces / "gone.jpg").symlink_to(tmp_path / "nowhere")
    assert _run(faces, tmp_path / "out", model) == 0
    out, err = capsys.readouterr()
    assert out == "5 restored, 0 without a face, 0 skipped, 0 failed, 6 other files, 2 links passed over\n"
    lines = err.splitlines()
    assert len(lines) == 2
    assert sum(str(faces / "gone.jpg") in line for line in lines) == 1
    assert sum(str(faces / "round") in line for line in lines) == 1
    assert {"album/four.png", "a/no suffix.image.png"} < _results(tmp_path / "out")


def test_a_folder_below_the_results_is_not_empty(faces: Path, model: Path, capsys: Captured) -> None:
    assert _run(faces / "a", faces, model) == 0
    assert {"two.jpg.png", "b/three.webp.png"} < _results(faces)
    (faces / "c").mkdir()
    (faces / "c" / "notes.txt").write_text("text")
    capsys.readouterr()
    assert _run(faces / "c", faces, model) == 2
    _assert_one_line(capsys, f"{faces / 'c'} has no image", "1 other file")


@pytest.mark.parametrize("target", ["file", "file/out"])
def test_a_target_that_cannot_be_written_is_refused(
    faces: Path, tmp_path: Path, model: Path, capsys: Captured, target: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert _run(faces, tmp_path / target, model) == 2
    _assert_one_line(capsys, str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("side", [1, 7, tiny.SIDE, 50])
def test_any_square_is_restored_at_the_models_resolution(restorer: Restorer, side: int) -> None:
    image = _face(0, side)
    before = image.copy()
    restored = _restored(restorer, image)
    assert restored.shape == (tiny.SIDE, tiny.SIDE, 3)
    assert restored.dtype == np.uint8
    assert np.array_equal(image, before)
    assert restorer.resolution == tiny.SIDE


def test_different_faces_are_restored_differently(restorer: Restorer) -> None:
    assert not np.array_equal(_restored(restorer, _face(0)), _restored(restorer, _face(1)))
    assert np.array_equal(_restored(restorer, _face(0)), _restored(restorer, _face(0)))


def test_what_is_not_square_is_refused(restorer: Restorer) -> None:
    with pytest.raises(ImageError, match="not square: 16x9 pixels"):
        restorer(_face(0)[:9], aligned=True)


def test_outcomes_come_one_at_a_time(faces: Path, tmp_path: Path, restorer: Restorer) -> None:
    outcomes = restore_files(restorer, faces, tmp_path / "out", Wanted(aligned=True), settings={}, batch=1)
    first = next(outcomes)
    assert first.target is not None
    assert _results(tmp_path / "out") == {str(first.target.relative_to(tmp_path / "out"))}
    assert len(list(outcomes)) == 2
