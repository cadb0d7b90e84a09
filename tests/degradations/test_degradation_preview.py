"""The command line: a sheet, or one line that says what is wrong."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from daefr.cli import main
from degradations import RECIPES, decode_image
from degradations.images import Uint8Image


@pytest.fixture
def face_file(face: Uint8Image, tmp_path: Path) -> Path:
    path = tmp_path / "face.png"
    cv2.imwrite(str(path), face[..., ::-1])
    return path


def test_preview_writes_the_same_sheet_for_the_same_seed(face_file: Path, tmp_path: Path) -> None:
    sheets = []
    for name, seed in (("a.png", "1"), ("b.png", "1"), ("c.png", "2")):
        out = tmp_path / name
        options = ["--recipe", "daefr-severe", "--count", "4", "--seed", seed, "--out", str(out)]
        assert main(["degradations", "preview", str(face_file), *options]) == 0
        sheets.append(decode_image(out.read_bytes()))
    np.testing.assert_array_equal(sheets[0], sheets[1])
    assert (sheets[0] != sheets[2]).any()
    assert sheets[0].shape[1] == 3 * 256


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_has_a_sheet_with_labels(recipe: str, face_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    assert main(["degradations", "preview", str(face_file), "--recipe", recipe, "--count", "2", "--out", str(out)]) == 0
    sheet = decode_image(out.read_bytes())
    labels = sheet[256:]
    assert len(labels) > 2 * 15
    for column in range(3):
        assert (labels[:15, 256 * column : 256 * (column + 1)] < 64).any(), "black letters"


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("missing.png", ["--recipe", "daefr-mild"], "missing.png"),
        ("text.png", ["--recipe", "daefr-mild"], "text.png"),
        ("face.png", ["--recipe", "daefr-mid"], "daefr-severe"),
        ("wide.png", ["--recipe", "daefr-mild"], "square"),
        ("face.png", ["--recipe", "daefr-mild", "--count", "0"], "--count"),
        ("face.png", ["--recipe", "daefr-mild", "--seed", "-1"], "--seed"),
        ("face.png", ["--recipe", "daefr-mild", "--out", "no/such/folder.png"], "no/such/folder.png"),
        ("face.png", [], "--recipe"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    *,
    name: str,
    options: list[str],
    named: str,
    face_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(face_file.parent)
    Path("text.png").write_text("not an image")
    cv2.imwrite("wide.png", np.zeros((8, 16, 3), dtype=np.uint8))
    try:
        code: object = main(["degradations", "preview", name, *options])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1 and named in message
