"""A user's mistake ends with one clear line and exit code 2."""

from pathlib import Path

import pytest

from tests.e2e.command import Finished, run


def _is_one_line(finished: Finished, told: str) -> None:
    assert finished.code == 2, finished.err
    errors = [line for line in finished.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, finished.err
    assert told in errors[0]
    assert "Traceback" not in finished.err


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("stages.restoration.stepz=3", "did you mean steps?"),
        ("data.faces=/nowhere/at/all", "/nowhere/at/all is not a folder"),
        ("network.autoencoder.resolution=33", "multiple of 2"),
        ("stages.association.initial_checkpoint=/nowhere/at/all", "is not a checkpoint directory"),
    ],
)
def test_a_wrong_value(override: str, told: str, tmp_path: Path) -> None:
    _is_one_line(run("full", tmp_path / "run", override), told)
    assert list(tmp_path.iterdir()) == [], "a mistake leaves nothing behind"


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    _is_one_line(run("full", tmp_path / "run", f"data.faces={tmp_path / 'faces'}"), "is empty")
    assert not (tmp_path / "run").exists()


def test_a_folder_of_text_files(tmp_path: Path) -> None:
    finished = run("full", tmp_path / "run", f"data.faces={_texts(tmp_path / 'faces', '.txt')}")
    _is_one_line(finished, "8 other files")
    assert not (tmp_path / "run").exists()


def test_a_folder_of_files_that_only_look_like_images(tmp_path: Path) -> None:
    finished = run("full", tmp_path / "run", f"data.faces={_texts(tmp_path / 'faces', '.jpg')}")
    _is_one_line(finished, "8 of 8 faces were rejected")


def _texts(folder: Path, suffix: str) -> Path:
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}{suffix}").write_text("not a face")
    return folder


def test_an_unknown_stage(tmp_path: Path) -> None:
    finished = run("train", tmp_path, "--stage", "upscaling")
    assert finished.code == 2
    assert "invalid choice: 'upscaling'" in finished.err
    assert "hq_codebook" in finished.err


def test_a_missing_configuration(tmp_path: Path) -> None:
    _is_one_line(run("full", tmp_path, config=tmp_path / "none.yaml"), "there is no configuration")
