"""Faces of photographs: alignment, filters, the detector, and the command line over them."""

import io
import itertools
import math
import re
import struct
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from facexlib.detection.retinaface import RetinaFace

from daefr.__main__ import main
from daefr.errors import UserError
from daefr.faces.alignment import align, move_points
from daefr.faces.crops import Aligner, AlignmentResult
from daefr.faces.detected import DetectedFace
from daefr.faces.detector import Detector
from daefr.faces.quality import NOSE_DEPTH, sharpness, turn
from daefr.faces.template import TEMPLATE, template_landmarks
from daefr.images import Image, decode_image, encode_png
from daefr.outputs import RECORD
from daefr.photographs import KINDS, ImageError, read_srgb
from daefr.portraits import draw_portrait
from daefr.portraits.geometry import lay_out, pose_head
from daefr.portraits.traits import sample_traits
from daefr.settings.faces import FaceFilters
from tests.daefr.photographs import SHARED, WEIGHTS, Told, needs_detector, needs_faces, photograph

LENIENT = FaceFilters(min_sharpness=0)


def _file(image: Image) -> bytes:
    return encode_png(image)


def _found(
    image: Image, *faces: DetectedFace, filters: FaceFilters = LENIENT, resolution: int = 512
) -> AlignmentResult:
    return Aligner(Told(list(faces)), filters, resolution)(_file(image), "p.jpg")  # type: ignore[arg-type]


def _reasons(found: AlignmentResult) -> list[tuple[str, str]]:
    return [(rejection.source, rejection.kind) for rejection in found.rejected]


# --- alignment


def test_a_face_on_the_template_is_left_as_it_is() -> None:
    image = draw_portrait(0, 512).image
    crop, matrix = align(image, TEMPLATE)
    assert np.array_equal(crop, image)
    np.testing.assert_allclose(matrix, np.eye(2, 3), atol=1e-4)


def test_a_face_of_twice_the_size_is_averaged_down_without_a_shift() -> None:
    image = draw_portrait(0, 512).image
    crop, _ = align(image.repeat(2, axis=0).repeat(2, axis=1), TEMPLATE * 2)
    assert np.array_equal(crop, image)


@pytest.mark.parametrize(("degrees", "zoom"), [(0, 1), (-25, 1.4), (70, 0.8), (170, 2)])
def test_a_turned_and_scaled_face_gives_the_crop_of_the_upright_one(degrees: float, zoom: float) -> None:
    portrait = draw_portrait(3, 512)
    image, face = photograph(3, 1400, degrees=degrees, zoom=zoom)
    (crop, matrix), (wanted, plain) = align(image, face.landmarks), align(portrait.image, portrait.landmarks)
    points, expected = move_points(face.landmarks, matrix), move_points(portrait.landmarks, plain)
    np.testing.assert_allclose(points, expected, atol=0.02)
    middle = slice(100, 412)
    error = np.abs(crop.astype(float) - wanted)[middle, middle].mean()
    shifted = np.abs(crop.astype(float) - np.roll(wanted, 1, axis=1))[middle, middle].mean()
    assert error < 3
    assert error < shifted


@pytest.mark.parametrize("seed", range(4))
def test_no_similarity_brings_the_points_nearer_to_the_template(seed: int) -> None:
    landmarks = draw_portrait(seed, 300).landmarks
    _, matrix = align(np.zeros((300, 300, 3), np.uint8), landmarks)
    points = move_points(landmarks, matrix)

    def distance(points: np.ndarray) -> float:
        return float(((points - template_landmarks(512)) ** 2).sum())

    best, centre = distance(points), points.mean(axis=0)
    for angle, scale, shift in [(0.01, 1, 0), (-0.01, 1, 0), (0, 1.01, 0), (0, 0.99, 0), (0, 1, 1), (0, 1, -1)]:
        cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
        other = (points - centre) @ np.array([[cosine, sine], [-sine, cosine]]) + centre + shift
        assert distance(other) > best


@pytest.mark.parametrize("times", [1.7, 3.3, 6.6])
def test_lines_finer_than_the_crop_become_gray_and_no_moire(times: float) -> None:
    side = int(512 * times) + 1
    lines = np.zeros((side, side, 3), np.uint8)
    lines[:, ::2] = 255
    crop, _ = align(lines, TEMPLATE * times)
    assert crop.mean() == pytest.approx(127.5, abs=2)
    assert crop.std() < 30


def test_the_crop_of_a_smaller_side_is_the_same_picture() -> None:
    image, face = photograph()
    small, matrix = align(image, face.landmarks, 128)
    large, whole = align(image, face.landmarks)
    np.testing.assert_allclose(matrix * 4, whole, rtol=1e-6)
    shrunk = cv2.resize(large, (128, 128), interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(float) - shrunk).mean() < 2


# --- what is measured of a face


def test_the_turn_follows_the_pose_of_portraits() -> None:
    traits = [sample_traits(seed) for seed in range(40)]
    true = [math.degrees(math.acos(math.cos(trait.yaw) * math.cos(trait.pitch))) for trait in traits]
    layouts = [lay_out(trait) for trait in traits]
    poses = [pose_head(trait, layout) for trait, layout in zip(traits, layouts, strict=True)]
    measured = [turn(pose.project(layout.landmarks)) for pose, layout in zip(poses, layouts, strict=True)]
    assert np.corrcoef(true, measured)[0, 1] > 0.9
    assert np.abs(np.subtract(true, measured)).mean() < 5


def _turned(yaw: float) -> np.ndarray:
    """The five points of the template's face in a photograph, looking `yaw` degrees to the side."""
    depth = np.array([0, 0, NOSE_DEPTH, 0, 0])
    x = (TEMPLATE[:, 0] - 256) * math.cos(math.radians(yaw)) + depth * math.sin(math.radians(yaw))
    return np.stack([x + 450, TEMPLATE[:, 1] + 150], axis=1).astype(np.float32)


@pytest.mark.parametrize("yaw", [0, 30, -60, 80])
def test_the_turn_is_in_degrees(yaw: float) -> None:
    assert turn(_turned(yaw)) == pytest.approx(abs(yaw), abs=0.5)
    upside_down = 900 - _turned(yaw)
    assert turn(upside_down) == pytest.approx(abs(yaw), abs=0.5)


def test_blur_lowers_sharpness_and_exposure_does_not() -> None:
    image = draw_portrait(2, 512).image
    blurred = np.asarray(cv2.GaussianBlur(image, (0, 0), 2), np.uint8)
    dark = (image * 0.4).astype(np.uint8)
    assert sharpness(blurred) < 0.1
    assert sharpness(image) > 0.2
    assert sharpness(dark) == pytest.approx(sharpness(image), rel=0.1)
    assert sharpness(np.full((64, 64, 3), 90, np.uint8)) == 0


# --- crops and rejections


def test_a_crop_has_the_landmarks_of_its_face() -> None:
    image, face = photograph()
    crop = _found(image, face, resolution=64).crops["p.jpg#0"]
    assert crop.image.shape == (64, 64, 3)
    np.testing.assert_allclose(crop.landmarks, move_points(face.landmarks, crop.matrix))
    assert np.abs(crop.landmarks - template_landmarks(64)).max() < 3
    large, _ = align(image, face.landmarks)
    assert np.array_equal(crop.image, cv2.resize(large, (64, 64), interpolation=cv2.INTER_AREA))
    assert crop.size == pytest.approx(512 * 1.1, rel=0.05)


def test_every_face_has_a_name_that_no_filter_changes() -> None:
    image, face = photograph()
    doubtful, good = replace(face, score=0.6), face
    found = _found(image, doubtful, good)
    assert list(found.crops) == ["p.jpg#1"]
    assert _reasons(found) == [("p.jpg#0", "low score")]
    everything = _found(image, doubtful, good, filters=FaceFilters(min_score=0.5, min_sharpness=0))
    assert list(everything.crops) == ["p.jpg#0", "p.jpg#1"]


def test_a_photograph_without_a_face_says_so() -> None:
    found = _found(photograph()[0])
    assert not found.crops
    assert _reasons(found) == [("p.jpg", "no face")]


@pytest.mark.parametrize(
    ("kind", "figures"),
    [
        ("too small", r"\d+ pixels, where 700 are wanted"),
        ("turned away", r"60 degrees, where 45 are allowed"),
        ("blurred", r"sharpness 0\.0\d, where 0\.1 is wanted"),
        ("cut off", r"\d\d% of the crop outside, where 10% are allowed"),
    ],
)
def test_each_filter_tells_its_reason_and_can_be_turned_off(kind: str, figures: str) -> None:
    image, face = photograph()
    strict, off = FaceFilters(), FaceFilters(max_turn=180, min_sharpness=0, max_outside=1, min_size=1)
    if kind == "too small":
        strict = FaceFilters(min_size=700)
    if kind == "turned away":
        face = replace(face, landmarks=_turned(60))
    if kind == "blurred":
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), 3), np.uint8)
    if kind == "cut off":
        image, face = image[:, 300:], replace(face, landmarks=face.landmarks - np.float32([300, 0]))
    (rejection,) = _found(image, face, filters=strict).rejected
    assert rejection.kind == kind
    assert rejection.reason.startswith(f"{kind}: ")
    assert re.search(figures, rejection.reason)
    assert _found(image, face, filters=off).crops


def test_by_default_no_crop_is_enlarged() -> None:
    image, face = photograph(zoom=0.5)
    assert _reasons(_found(image, face)) == [("p.jpg#0", "too small")]
    assert _found(image, face, resolution=256 - 32).crops


def test_crops_have_no_more_than_512_pixels() -> None:
    with pytest.raises(UserError, match="1 to 512 pixels, not 1024"):
        Aligner(Told([]), LENIENT, 1024)  # type: ignore[arg-type]


# --- files from outside


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 1), (8, 3)])
def test_a_photograph_is_turned_upright(kind: str, orientation: int, turns: int) -> None:
    upright = np.zeros((40, 60, 3), np.uint8)
    upright[:20, :30] = 250
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    stored = io.BytesIO()
    # the camera was held turned: its file shows the scene turned the other way
    PIL.Image.fromarray(np.ascontiguousarray(np.rot90(upright, turns))).save(stored, kind, exif=exif)
    read = read_srgb(stored.getvalue())
    assert read.shape == upright.shape
    assert np.abs(read.astype(int) - upright).mean() < 6


def _bomb(side: int) -> bytes:
    """A PNG of 57 bytes that says it has side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [11_000, 2_000_000])
def test_an_absurd_size_is_refused_before_decoding(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="too many pixels: more than 100000000"):
        Aligner(Told([]))(_bomb(side), "bomb.png")  # type: ignore[arg-type]


def test_the_limit_is_the_number_of_pixels() -> None:
    data = encode_png(np.zeros((20, 30, 3), np.uint8))
    assert read_srgb(data, 600).shape == (20, 30, 3)
    with pytest.raises(ImageError, match="more than 599"):
        read_srgb(data, 599)
    for other in (b"", b"text", data[:30]):
        with pytest.raises(ImageError, match="not a readable image"):
            read_srgb(other, 600)


# --- the detector


@pytest.mark.parametrize("kind", ["resnet50", "mobile0.25"])
def test_the_network_is_told_from_its_weights(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "weights.pth"
    with warnings.catch_warnings(action="ignore"):  # torchvision's
        network = RetinaFace(network_name=kind, device="cpu")
    torch.save({f"module.{name}": tensor for name, tensor in network.state_dict().items()}, path)
    image = np.random.default_rng(0).integers(0, 256, (30, 90, 3), dtype=np.uint8)
    assert all(0.5 <= face.score <= 1 for face in Detector.load(path).detect(image))


@pytest.mark.parametrize("content", ["nothing", "text", "list", "code", "other"])
def test_what_is_no_detector_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    if content == "text":
        path.write_text("weights")
    if content in ("list", "code", "other"):
        torch.save({"list": [1], "code": Path, "other": {"body.stage1.0.0.weight": torch.zeros(3)}}[content], path)
    with pytest.raises(UserError, match=r"weights\.pth") as caught:
        Detector.load(path)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.load(WEIGHTS)


@needs_detector
@needs_faces
def test_the_faces_of_a_group_are_found_from_left_to_right(detector: Detector) -> None:
    image = decode_image((SHARED / "faces" / "photos" / "00.jpg").read_bytes())
    faces = detector.detect(image)
    assert len(faces) == 4
    assert all(left.box[0] < right.box[0] for left, right in itertools.pairwise(faces))
    for face in faces:
        left_eye, right_eye, nose, left_corner, right_corner = face.landmarks
        assert left_eye[0] < nose[0] < right_eye[0]
        assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_corner[1], right_corner[1])
        assert (face.box[:2] < face.landmarks.min(axis=0)).all()
        assert (face.box[2:] > face.landmarks.max(axis=0)).all()


@needs_detector
@needs_faces
@pytest.mark.parametrize("name", ["ffhq_00002.png", "ffhq_00003.png", "ffhq_00004.png"])
def test_a_crop_of_ffhq_is_aligned_about_as_it_was(detector: Detector, name: str) -> None:
    crop = decode_image((SHARED / "faces" / "val" / name).read_bytes())
    (face,) = detector.detect(crop)
    assert face.score > 0.95
    _, matrix = align(crop, face.landmarks)
    corners = np.array([[128, 128], [384, 128], [384, 384], [128, 384]])
    assert np.linalg.norm(move_points(corners, matrix) - corners, axis=1).mean() < 30
    smaller = np.asarray(cv2.resize(crop, (200, 200), interpolation=cv2.INTER_AREA), np.uint8)
    (again,) = detector.detect(smaller)
    np.testing.assert_allclose(again.landmarks * 512 / 200, face.landmarks, atol=25)


@needs_detector
def test_nothing_is_found_where_nothing_is(detector: Detector) -> None:
    for shape in [(1, 1, 3), (5, 700, 3), (300, 200, 3)]:
        assert detector.detect(np.full(shape, 120, np.uint8)) == []


# --- the command line


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    _, face = photograph()
    monkeypatch.setattr(Detector, "load", lambda *_: Told([face, replace(face, score=0.7)]))


@pytest.mark.usefixtures("told")
def test_a_folder_becomes_a_folder_of_crops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photographs, crops = tmp_path / "in", tmp_path / "out"
    (photographs / "a" / "b").mkdir(parents=True)
    for place in ("one.png", "a/b/two.png"):
        (photographs / place).write_bytes(_file(photograph()[0]))
    options = [str(photographs), str(crops), "--device", "cpu", "--side", "100", "--min-sharpness", "0"]
    assert main(["align", *options]) == 0
    out, err = capsys.readouterr()
    assert out == "2 crops of 2 photographs, 2 low score, 0 failed\n"
    assert err == "".join(f"2 faces: {photographs / name}\n" for name in ("a/b/two.png", "one.png"))
    written = {str(path.relative_to(crops)) for path in crops.rglob("*") if path.is_file()}
    assert written == {"one.png#0.png", "a/b/two.png#0.png", RECORD}
    image, face = photograph()
    assert np.array_equal(
        decode_image((crops / "one.png#0.png").read_bytes()), _found(image, face, resolution=100).crops["p.jpg#0"].image
    )
    (photographs / "notes.txt").write_text("text")
    (photographs / "round").symlink_to(photographs)
    assert main(["align", *options]) == 0
    out, err = capsys.readouterr()
    assert out == "2 crops of 2 photographs, 2 low score, 0 failed, 1 other file, 1 link passed over\n"
    assert err.startswith(f"passed over: {photographs / 'round'} ")
    (photographs / "text.png").write_text("text")
    assert main(["align", *options]) == 1
    out, err = capsys.readouterr()
    assert out == "2 crops of 3 photographs, 2 low score, 1 failed, 1 other file, 1 link passed over\n"
    assert f"failed: {photographs / 'text.png'}: not a readable image: none of {KINDS}\n" in err
    assert main(["align", str(photographs / "one.png"), str(tmp_path / "single"), "--min-size", "5000"]) == 1
    assert capsys.readouterr().out.startswith("0 crops of 1 photographs, ")


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize(
    ("more", "told_what"),
    [
        (["--min-score", "2"], "--min-score 2"),
        (["--max-turn", "wide"], "--max-turn wide"),
        (["--side", "0"], "1 to 512 pixels, not 0"),
        (["--max-pixels", "0"], "--max-pixels 0"),
    ],
)
def test_a_wrong_option_is_one_line(
    more: list[str], told_what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.png").write_bytes(_file(photograph()[0]))
    assert main(["align", str(tmp_path), str(tmp_path / "out"), *more]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert told_what in err


def test_a_missing_folder_or_detector_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["align", str(tmp_path / "none"), str(tmp_path / "out")]) == 2
    assert "does not exist; give an image or a folder of images" in capsys.readouterr().err
    (tmp_path / "one.png").write_bytes(_file(photograph()[0]))
    assert main(["align", str(tmp_path), str(tmp_path / "out"), "--detector", str(tmp_path / "no.pth")]) == 2
    assert "no weights of a face detector at" in capsys.readouterr().err
