"""Looking for faces: in tiles and at several scales, as fine as the smallest face needs and no finer."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest

from daefr.__main__ import main
from daefr.errors import UserError
from daefr.faces.detected import DetectedFace
from daefr.faces.detector import Detector
from daefr.faces.search import TILE, VISIBLE, find_faces
from daefr.images import Image, encode_png
from daefr.restore import Restorer
from tests.daefr import tiny
from tests.daefr.photographs import SHARED, WEIGHTS, Told, needs_detector, needs_faces, photograph

SCHOOL = SHARED / "field" / "photographs" / "school_20_faces.jpg"
needs_school = pytest.mark.skipif(not SCHOOL.is_file(), reason=f"there is no photograph of a school at {SCHOOL}")


@dataclass
class SquareDetector:
    """Finds bright squares as a network finds faces: those of 24 to 700 pixels, and what an edge leaves of them."""

    side: int = 640
    looks: list[tuple[int, int]] = field(default_factory=list)

    def detect(self, image: Image, side: int | None = None) -> list[DetectedFace]:
        assert side is None or max(image.shape[:2]) <= side
        self.looks.append((image.shape[0], image.shape[1]))
        _, _, stats, _ = cv2.connectedComponentsWithStats((image[..., 0] > 127).astype(np.uint8))
        faces = []
        for x, y, width, height, _ in stats[1:]:
            if VISIBLE - 2 <= max(width, height) <= 700:
                box = np.array([x, y, x + width, y + height], np.float32)
                points = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
                landmarks = (points * (width, height) + (x, y)).astype(np.float32)
                faces.append(DetectedFace(box, 0.99, landmarks))
        return faces

    @property
    def pixels(self) -> int:
        return sum(height * width for height, width in self.looks)


def _squares(height: int, width: int, squares: list[tuple[int, int, int]]) -> Image:
    image = np.zeros((height, width, 3), np.uint8)
    for x, y, side in squares:
        image[y : y + side, x : x + side] = 255
    return image


def _spread(height: int, width: int, seed: int) -> list[tuple[int, int, int]]:
    """Squares of 24 to 600 pixels, at places that tiles do not know of."""
    rng = np.random.default_rng(seed)
    cells = [(x, y) for y in range(0, height - 700, 700) for x in range(0, width - 700, 700)]
    sides = np.geomspace(24, 600, len(cells)).astype(int)
    places = zip(rng.permutation(cells).tolist(), sides.tolist(), strict=True)
    return [
        (x + int(rng.integers(0, 690 - side)), y + int(rng.integers(0, 690 - side)), side) for (x, y), side in places
    ]


@pytest.mark.parametrize("size", [(1400, 9000), (9000, 1400), (4000, 5000), (700, 1281)])
def test_each_face_of_a_large_photograph_is_found_once(size: tuple[int, int]) -> None:
    squares = _spread(*size, seed=sum(size))
    squares.append((size[1] - 30, size[0] - 30, 30))
    detector = SquareDetector()
    faces = find_faces(detector, _squares(*size, squares))
    assert len(faces) == len(squares)
    for x, y, side in squares:
        assert min(np.abs(face.box - (x, y, x + side, y + side)).max() for face in faces) <= max(3, side / 10)
    assert max(max(look) for look in detector.looks) <= TILE, "however large the photograph is"


def test_larger_faces_alone_are_cheaper() -> None:
    squares = [(100, 100, 30), (1000, 500, 60), (2000, 900, 130), (3000, 1500, 300)]
    image = _squares(2400, 3900, squares)
    detectors = {min_face: SquareDetector() for min_face in (24, 50, 100, 200)}
    found = {min_face: len(find_faces(detector, image, min_face)) for min_face, detector in detectors.items()}
    assert found == {24: 4, 50: 3, 100: 2, 200: 1}
    pixels = [detector.pixels for detector in detectors.values()]
    assert pixels[0] > 2.5 * pixels[1] > 5 * pixels[2]
    assert pixels == sorted(pixels, reverse=True)


def test_a_photograph_without_a_face_is_turned_at_a_coarse_scale_only() -> None:
    detector = SquareDetector()
    assert find_faces(detector, _squares(4000, 4000, [])) == []
    assert detector.pixels < 2 * 4000 * 4000


def test_a_smallest_face_of_no_pixels_is_refused() -> None:
    with pytest.raises(UserError, match="0 pixels"):
        Detector(None, min_face=0)


# --- with a real detector


@needs_detector
@needs_school
def test_a_long_photograph_of_a_school_has_all_of_its_faces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crops = ["--side", "64", "--min-sharpness", "0", "--max-turn", "180", "--json"]
    assert main(["align", str(SCHOOL), str(tmp_path), "--detector", str(WEIGHTS), "--device", "cpu", *crops]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [each["faces"] for each in told["photographs"]] == [20]
    assert told["crops"] == len(told["photographs"][0]["crops"]) == 20


@needs_detector
@needs_faces
def test_small_faces_are_found_anywhere_in_a_large_photograph() -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(60, 200, (20, 30, 3)).astype(np.uint8)
    image = np.asarray(cv2.resize(coarse, (3000, 2000), interpolation=cv2.INTER_CUBIC), np.uint8)
    files = sorted((SHARED / "faces" / "val").glob("*.png"))
    middles = []
    for number in range(20):
        side = 34 + number  # of crops in which a face has three quarters
        face = PIL.Image.open(files[number % len(files)]).convert("RGB").resize((side, side), PIL.Image.Resampling.BOX)
        x, y = number % 5 * 600 + int(rng.integers(0, 500)), number // 5 * 500 + int(rng.integers(0, 400))
        image[y : y + side, x : x + side] = np.asarray(face)
        middles.append((x + side / 2, y + side / 2))
    faces = Detector.load(WEIGHTS).find(image)
    found = [(face.box[:2] + face.box[2:]) / 2 for face in faces]
    missed = [middle for middle in middles if min(np.abs(each - middle).max() for each in found) > 12]
    assert len(faces) - len(middles) + len(missed) == 0, "nothing else is taken for a face"
    assert len(missed) <= 1


# --- what is told


def test_the_number_of_faces_is_told_for_each_photograph(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    image, face = photograph(1, 300, zoom=0.4)
    asked = []
    monkeypatch.setattr(Detector, "load", lambda *given: asked.append(given[-1]) or Told([face, face]))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "two.png").write_bytes(encode_png(image))
    (tmp_path / "in" / "broken.png").write_bytes(encode_png(image)[:99])
    model = tiny.checkpoint(tmp_path / "model", tiny.build("restoration", seed=1)).path
    command = ["restore", str(tmp_path / "in"), str(tmp_path / "out"), "--model", str(model), "--device", "cpu"]
    assert main([*command, "--min-face", "40"]) == 1
    assert f"2 faces: {tmp_path / 'in' / 'two.png'}\n" in capsys.readouterr().err
    assert main([*command, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["restored"], told["failed"]) == (1, 1)
    assert [(Path(each["source"]).name, each["faces"]) for each in told["photographs"]] == [
        ("broken.png", None),
        ("two.png", 2),
    ]
    assert asked == [40, 16]
    Restorer.load(model, "cpu", min_face=99).load_detector()
    assert asked[-1] == 99
