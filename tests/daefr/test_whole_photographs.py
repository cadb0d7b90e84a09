"""Whole photographs: found faces restored and pasted back, and nothing else touched."""

import io
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import PIL.ImageCms
import pytest
import torch

from daefr import ImageError, Restorer
from daefr.faces.alignment import align, move_points
from daefr.faces.detected import DetectedFace
from daefr.faces.detector import Detector
from daefr.images import encode_png
from daefr.restore.masks import FaceParser, face_mask, whole_mask
from daefr.restore.paste import Patch, match_colours, paste
from daefr.restore.tones import LUMA
from daefr.stages import RestorationStage
from tests.daefr import tiny
from tests.daefr.photographs import SHARED, WEIGHTS, Told, needs_detector, needs_faces, photograph

CPU = torch.device("cpu")


def _stage() -> RestorationStage:
    stage = tiny.build("restoration", seed=3)
    assert isinstance(stage, RestorationStage)
    return stage


def _restorer(*faces: DetectedFace, **options: object) -> Restorer:
    return Restorer(_stage(), CPU, detector=Told(list(faces)), **options)  # type: ignore[arg-type]


def _square(face: DetectedFace, shape: tuple[int, ...], scale: int = 1) -> np.ndarray:
    """Where the crop of a face lies in a photograph, (H, W), with the pixels that it touches."""
    _, matrix = align(np.zeros((8, 8, 3), np.uint8), face.landmarks, 16)
    turn = np.linalg.inv(matrix[:, :2])
    corners = ((np.array([[0, 0], [16, 0], [16, 16], [0, 16]]) - matrix[:, 2]) @ turn.T) * scale
    canvas = np.zeros((shape[0] * scale, shape[1] * scale), np.uint8)
    cv2.fillConvexPoly(canvas, np.rint(corners).astype(np.int32), 1)
    return cv2.dilate(canvas, np.ones((5, 5), np.uint8)) > 0


# --- pasting


@pytest.mark.parametrize(
    ("degrees", "zoom", "side"),
    [(0, 1, 900), (20, 1.1, 900), (170, 0.5, 500), (-50, 0.1, 300), (10, 2, 1100), (15, 2, 600)],
)
def test_an_unchanged_crop_leaves_the_photograph_as_it_was(degrees: float, zoom: float, side: int) -> None:
    image, face = photograph(2, side, degrees=degrees, zoom=zoom)
    crop, matrix = align(image, face.landmarks)
    result = paste(image, [Patch(crop, whole_mask(), matrix)])
    inside = _square(face, image.shape)
    assert np.array_equal(result[~inside], image[~inside])
    difference = np.abs(result.astype(int) - image)[inside]
    # what is larger than the crop loses detail, as what is tiny does on the way there and back; nothing is shifted
    assert difference.mean() < (1.2 if 0.5 <= zoom <= 1 else 2.5)


def test_a_patch_fades_out_before_its_border() -> None:
    image = np.full((200, 300, 3), 100, np.uint8)
    patch = Patch(np.full((64, 64, 3), 200, np.uint8), whole_mask(), np.array([[0.5, 0, -40], [0, 0.5, -20]]))
    result = paste(image, [patch])
    assert np.array_equal(result[40 + 64, 80 + 64], [200, 200, 200])
    profile = result[40 + 64, 80 : 80 + 128, 0].astype(int)
    assert profile[0] <= 102
    assert profile[-1] <= 102
    assert np.abs(np.diff(profile)).max() <= 10
    untouched = np.ones((200, 300), bool)
    untouched[40:168, 80:208] = False
    assert (result[untouched] == 100).all()
    assert (image == 100).all()


def test_a_patch_outside_is_left_out() -> None:
    image = np.full((50, 50, 3), 9, np.uint8)
    patch = Patch(np.full((16, 16, 3), 200, np.uint8), whole_mask(), np.array([[1.0, 0, 500], [0, 1.0, 500]]))
    assert np.array_equal(paste(image, [patch]), image)


@pytest.mark.parametrize("first", [0, 1])
def test_neighbours_keep_each_others_faces_free(first: int) -> None:
    colours, shifts = [(255, 0, 0), (0, 0, 255)], [0, 110]
    patches = [
        Patch(np.full((256, 256, 3), colour, np.uint8), whole_mask(), np.array([[1.0, 0, -20 - shift], [0, 1.0, -20]]))
        for colour, shift in zip(colours, shifts, strict=True)
    ]
    result = paste(np.zeros((300, 420, 3), np.uint8), patches if first == 0 else patches[::-1])
    for colour, shift in zip(colours, shifts, strict=True):
        middle = result[20 + 148, 20 + shift + 128 - 30 : 20 + shift + 128 + 30]
        assert np.abs(middle.astype(int) - colour).max() < 40


def test_a_face_that_is_found_twice_is_pasted_nevertheless() -> None:
    patch = Patch(np.full((64, 64, 3), 200, np.uint8), whole_mask(), np.array([[1.0, 0, -20], [0, 1.0, -20]]))
    result = paste(np.zeros((100, 100, 3), np.uint8), [patch, replace(patch)])
    assert result[52, 52].min() == 200


def test_colours_are_those_of_the_crop_and_details_those_of_the_restored_one() -> None:
    crop = np.asarray(cv2.GaussianBlur(photograph(1, 512, zoom=1)[0], (0, 0), 3), np.uint8)
    checks = np.indices((512, 512)).sum(axis=0) // 4 % 2 * 20 - 10
    cast = np.array([30, -20, 10])
    restored = np.clip(crop.astype(int) + cast + checks[..., None], 0, 255).astype(np.uint8)
    matched = match_colours(restored, crop).astype(int)
    plain = (crop.min(axis=2) > 40) & (crop.max(axis=2) < 215)
    assert np.abs((matched - crop)[plain].mean(axis=0)).max() < 1.5
    assert np.abs((matched - crop - checks[..., None])[plain]).mean() < 3


def test_masks_end_before_the_crop_does() -> None:
    for mask in (whole_mask(), face_mask()):
        assert mask.max() == 1
        assert mask.min() == 0
        assert max(mask[0].max(), mask[-1].max(), mask[:, 0].max(), mask[:, -1].max()) == 0


class _Parsing(torch.nn.Module):
    """Says which pixels are of which class, as ParseNet does."""

    def __init__(self, classes: np.ndarray) -> None:
        super().__init__()
        self.scores = torch.nn.functional.one_hot(torch.from_numpy(classes).long(), 19).permute(2, 0, 1)[None].float()

    def forward(self, _: torch.Tensor) -> tuple[torch.Tensor, None]:
        return self.scores, None


def test_a_parser_tells_what_is_pasted() -> None:
    classes = np.zeros((512, 512), np.int64)
    classes[150:480, 120:390] = 1
    classes[440:480, 120:390] = 17
    mask = FaceParser(_Parsing(classes), CPU)(np.zeros((128, 128, 3), np.uint8))
    assert mask[256, 256] > 0.99
    assert mask[470, 256] < 0.05, "the neck"
    assert mask[256, 40] == 0, "the background"
    assert np.array_equal(FaceParser(_Parsing(classes * 0), CPU)(np.zeros((64, 64, 3), np.uint8)), whole_mask())


# --- photographs


def test_faces_are_restored_and_the_rest_is_untouched_to_the_last_bit() -> None:
    image, face = photograph(1, 700)
    tiny_face = replace(face, box=face.box / 10, landmarks=face.landmarks / 10)
    at_the_border = replace(face, box=face.box - 330, landmarks=face.landmarks - 330)
    faces = [at_the_border, tiny_face, face]
    result = _restorer(*faces)(image)
    inside = np.any([_square(each, image.shape) for each in faces], axis=0)
    assert np.array_equal(result.image[~inside], image[~inside])
    assert not np.array_equal(result.image[inside], image[inside])
    assert len(result.faces) == 3
    for found, each in zip(result.faces, faces, strict=True):
        assert found.score == each.score
        assert np.array_equal(found.box, each.box)
        assert np.array_equal(found.landmarks, each.landmarks)
        assert found.crop.shape == found.restored.shape == (tiny.SIDE, tiny.SIDE, 3)
        assert np.array_equal(found.crop, align(image, each.landmarks, tiny.SIDE)[0])
        np.testing.assert_allclose(found.matrix, align(image, each.landmarks, tiny.SIDE)[1])
        assert np.array_equal(found.restored, _restorer().restore_crops([found.crop])[0])


def test_every_way_in_gives_the_same_result(tmp_path: Path) -> None:
    image, face = photograph(1, 300, zoom=0.4)
    (tmp_path / "p.png").write_bytes(encode_png(image))
    restorer = _restorer(face)
    path = tmp_path / "p.png"
    results = [restorer(source).image for source in (str(path), path, path.read_bytes(), PIL.Image.open(path), image)]
    results += [each.image for each in restorer.restore_all([path, image])]  # type: ignore[union-attr]
    assert all(np.array_equal(result, results[0]) for result in results)
    crop = align(image, face.landmarks, 40)[0]
    whole = restorer(crop, aligned=True)
    assert np.array_equal(whole.image, restorer.restore_crops([crop])[0])
    assert whole.faces[0].box.tolist() == [0, 0, 40, 40]


def test_batches_change_no_more_than_rounding() -> None:
    crops = [tiny.face(np.random.default_rng(seed), 20 + seed) for seed in range(5)]
    alone = _restorer(batch=1).restore_crops(crops)
    together = _restorer(batch=4).restore_crops(crops)
    assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(alone, together, strict=True))
    assert _restorer().restore_crops([]) == []


def test_only_the_face_next_to_the_middle() -> None:
    image, face = photograph(1, 700)
    other = replace(face, box=face.box - 250, landmarks=face.landmarks - 250)
    result = _restorer(other, face)(image, only_center_face=True)
    assert [found.box.tolist() for found in result.faces] == [face.box.tolist()]


def test_without_a_face_nothing_changes() -> None:
    image, face = photograph(1, 300)
    for faces in ([], [replace(face, landmarks=np.full((5, 2), 9, np.float32))]):
        result = _restorer(*faces)(image, only_center_face=True)
        assert result.faces == []
        assert np.array_equal(result.image, image)


def test_a_failure_is_no_result() -> None:
    image, face = photograph(1, 300)
    stage = _stage()
    for weight in stage.generator.decoder.parameters():
        weight.data.fill_(math.nan)
    restorer = Restorer(stage, CPU, detector=Told([face]))  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="not finite"):
        restorer(image)
    good, bad, also_good = _restorer(face).restore_all([image, b"no image", image])
    assert isinstance(bad, ImageError)
    assert not isinstance(good, ImageError)
    assert not isinstance(also_good, ImageError)


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.float32), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_an_array_of_another_kind_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"where \(H, W, 3\) uint8 RGB is wanted"):
        _restorer()(wrong)


def _stored(image: PIL.Image.Image, kind: str = "PNG", **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def _wide_profile() -> bytes:
    """A profile whose red is further out than that of sRGB: its first column is exchanged for another."""
    profile = bytearray(PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes())
    at = profile.index(b"rXYZ")
    place = int.from_bytes(profile[at + 4 : at + 8], "big") + 8
    for index, value in enumerate((0.60974, 0.31111, 0.01947)):  # the red of Adobe RGB
        profile[place + 4 * index : place + 4 * index + 4] = round(value * 65536).to_bytes(4, "big")
    return bytes(profile)


def test_a_colour_profile_is_kept_and_the_network_sees_srgb() -> None:
    image, face = photograph(1, 300, zoom=0.4)
    profile = _wide_profile()
    data = _stored(PIL.Image.fromarray(image), icc_profile=profile)
    result = _restorer(face)(data)
    inside = _square(face, image.shape)
    assert np.array_equal(result.image[~inside], image[~inside])
    crop = align(image, face.landmarks, tiny.SIDE)[0]
    assert not np.array_equal(result.faces[0].crop, crop)
    srgb = PIL.ImageCms.profileToProfile(
        PIL.Image.fromarray(image), io.BytesIO(profile), PIL.ImageCms.createProfile("sRGB")
    )
    assert np.array_equal(result.faces[0].crop, align(np.asarray(srgb), face.landmarks, tiny.SIDE)[0])
    written = PIL.Image.open(io.BytesIO(result.png()))
    assert written.info["icc_profile"] == profile
    assert np.array_equal(np.asarray(written), result.image)


def test_a_damaged_profile_does_no_harm() -> None:
    image, face = photograph(1, 300, zoom=0.4)
    data = _stored(PIL.Image.fromarray(image), icc_profile=b"no profile" * 20)
    assert np.array_equal(_restorer(face)(data).image, _restorer(face)(image).image)


def test_transparency_is_kept() -> None:
    image, face = photograph(1, 300, zoom=0.4)
    alpha = np.random.default_rng(0).integers(0, 256, image.shape[:2], dtype=np.uint8)
    data = _stored(PIL.Image.fromarray(np.dstack([image, alpha])))
    result = _restorer(face)(data)
    inside = _square(face, image.shape)
    assert np.array_equal(result.image[~inside], image[~inside])
    assert not np.array_equal(result.image[inside], image[inside])
    assert np.array_equal(np.asarray(PIL.Image.open(io.BytesIO(result.png())))[..., 3], alpha)
    larger = PIL.Image.open(io.BytesIO(_restorer(face)(data, upscale=2).png()))
    assert larger.mode == "RGBA"
    assert larger.size == (600, 600)


@pytest.mark.parametrize("mode", ["L", "RGB", "LA"])
def test_a_gray_photograph_stays_gray(mode: str) -> None:
    image, face = photograph(1, 300, zoom=0.4)
    gray = PIL.Image.fromarray(image).convert("L")
    result = _restorer(face)(_stored(gray.convert(mode)))
    assert (result.image == result.image[..., :1]).all()
    inside = _square(face, image.shape)
    assert np.array_equal(result.image[~inside][:, 0], np.asarray(gray)[~inside])
    assert not np.array_equal(result.image[inside][:, 0], np.asarray(gray)[inside])
    assert PIL.Image.open(io.BytesIO(result.png())).mode == mode


def test_a_photograph_of_one_tone_keeps_it() -> None:
    image, face = photograph(1, 300, zoom=0.4)
    gray = np.clip(np.asarray(PIL.Image.fromarray(image).convert("L")).astype(int), 30, 220)
    toned = (gray[..., None] + np.array([9, 0, -7])).astype(np.uint8)
    result = _restorer(face)(toned).image.astype(int)
    inside = _square(face, image.shape)
    assert not np.array_equal(result[inside], toned[inside])
    plain = (result.min(axis=2) > 5) & (result.max(axis=2) < 250)
    assert np.abs(result[..., 0] - result[..., 1] - 9)[plain].max() <= 1
    assert np.abs(result[..., 1] - result[..., 2] - 7)[plain].max() <= 1


@needs_detector
@pytest.mark.parametrize("name", ["sepia.png", "gray_in_wooden_frame.png"])
def test_a_toned_or_framed_photograph_keeps_its_colours(detector: Detector, name: str) -> None:
    path = SHARED / "field" / "photographs" / name
    if not path.is_file():
        pytest.skip(f"there is no photograph at {path}")
    image = np.asarray(PIL.Image.open(path))
    restorer = Restorer(_stage(), CPU, detector=detector)
    result = restorer(image)
    assert len(result.faces) == 4
    for face in result.faces:
        left, top, right, bottom = face.box.astype(int)
        for before, after in (
            (image[top:bottom, left:right], result.image[top:bottom, left:right]),
            (face.crop, restorer(face.crop, aligned=True).image),
        ):
            light, lighter = before @ LUMA, after @ LUMA
            middle = (lighter > np.quantile(light, 0.05)) & (lighter < np.quantile(light, 0.95))
            for channel in range(3):
                curve = np.polynomial.Polynomial.fit(light.ravel(), (before[..., channel] - light).ravel(), 4)
                assert abs((after[..., channel] - lighter - curve(lighter))[middle].mean()) < 3


def test_a_photograph_is_turned_upright_before_faces_are_looked_for() -> None:
    image, face = photograph(1, 300, zoom=0.4)
    image = image[:250]
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    data = _stored(PIL.Image.fromarray(np.ascontiguousarray(np.rot90(image))), exif=exif)
    result = _restorer(face)(data)
    assert np.array_equal(result.image, _restorer(face)(image).image)
    assert PIL.Image.open(io.BytesIO(result.png())).getexif() == {}


# --- finding


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.load(WEIGHTS)


@needs_detector
@needs_faces
@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_all_of_a_group_are_found_however_it_lies(detector: Detector, quarters: int) -> None:
    image = np.asarray(PIL.Image.open(SHARED / "faces" / "photos" / "00.jpg"))
    faces = detector.find(np.ascontiguousarray(np.rot90(image, quarters)))
    assert len(faces) == 4
    for face in faces:
        _, matrix = align(image, face.landmarks)
        turned = math.degrees(math.atan2(matrix[1, 0], matrix[0, 0]))
        assert abs((turned - 90 * quarters + 180) % 360 - 180) < 25


@needs_detector
@needs_faces
@pytest.mark.parametrize("degrees", [60, 130, 200, 285])
def test_landmarks_turn_with_the_face(detector: Detector, degrees: float) -> None:
    image = np.asarray(PIL.Image.open(SHARED / "faces" / "val" / "ffhq_00002.png"))
    (upright,) = detector.find(image)
    turn = cv2.getRotationMatrix2D((256, 256), degrees, 0.6)
    turned = np.asarray(cv2.warpAffine(image, turn, (512, 512), borderMode=cv2.BORDER_REFLECT), np.uint8)
    expected = move_points(upright.landmarks, turn)
    distance = min(np.linalg.norm(face.landmarks - expected, axis=1).mean() for face in detector.find(turned))
    assert distance < 12


@needs_detector
@needs_faces
def test_large_and_tiny_faces_are_found_in_one_photograph(detector: Detector) -> None:
    canvas = np.full((900, 1300, 3), 110, np.uint8)
    places = [(600, 20, 20), (90, 700, 60), (60, 900, 400), (48, 1100, 700)]
    for number, (side, x, y) in enumerate(places):
        face = PIL.Image.open(SHARED / "faces" / "val" / f"ffhq_0000{number}.png").resize((side, side))
        canvas[y : y + side, x : x + side] = np.asarray(face)
    faces = detector.find(canvas)
    middles = sorted((face.box[:2] + face.box[2:]).tolist() for face in faces)
    assert len(middles) == len(places)
    for middle, (side, x, y) in zip(middles, places, strict=True):
        assert np.abs(np.array(middle) / 2 - (x + side / 2, y + side / 2)).max() < side / 4
