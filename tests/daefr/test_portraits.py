"""The drawn portraits: reproducible, varied, and with landmarks on what is drawn."""

import itertools

import cv2
import numpy as np
import pytest

from daefr.faces.template import TEMPLATE
from daefr.portraits import Portrait, draw_portrait

COUNT = 50
SIDE = 64


@pytest.fixture(scope="module")
def small() -> list[Portrait]:
    return [draw_portrait(seed, SIDE) for seed in range(COUNT)]


@pytest.fixture(scope="module")
def large() -> list[Portrait]:
    return [draw_portrait(seed, 512) for seed in range(6)]


@pytest.mark.parametrize("side", [32, 64, 300, 512])
def test_form(side: int) -> None:
    portrait = draw_portrait(3, side)
    assert portrait.image.shape == (side, side, 3)
    assert portrait.image.dtype == np.uint8
    assert portrait.landmarks.shape == (5, 2)
    assert portrait.landmarks.dtype == np.float32


@pytest.mark.parametrize("side", [64, 512])
def test_same_arguments_give_the_same_bytes(side: int) -> None:
    first, second = draw_portrait(7, side), draw_portrait(7, side)
    assert first.image.tobytes() == second.image.tobytes()
    assert first.landmarks.tobytes() == second.landmarks.tobytes()


def test_portraits_differ(small: list[Portrait]) -> None:
    images = np.stack([portrait.image for portrait in small]).astype(np.float32)
    differences = [float(np.abs(a - b).mean()) for a, b in itertools.combinations(images, 2)]
    assert min(differences) > 5
    assert np.mean(differences) > 30


def test_one_seed_is_the_same_face_at_every_side(large: list[Portrait], small: list[Portrait]) -> None:
    for big, little in zip(large, small, strict=False):
        shrunk = cv2.resize(big.image, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
        assert np.abs(shrunk - little.image).mean() < 4
        np.testing.assert_allclose(big.landmarks * SIDE / 512, little.landmarks, atol=1e-3)


def test_landmarks_lie_around_the_template(small: list[Portrait]) -> None:
    landmarks = np.stack([portrait.landmarks for portrait in small]) * 512 / SIDE
    assert np.abs(landmarks.mean(axis=0) - TEMPLATE).max() < 8
    assert np.abs(landmarks - TEMPLATE).max() < 50
    assert landmarks.std(axis=0).min() > 1, "real alignments vary"


def test_landmarks_keep_their_order(small: list[Portrait]) -> None:
    for portrait in small:
        left_eye, right_eye, nose, left_corner, right_corner = portrait.landmarks
        assert left_eye[0] < nose[0] < right_eye[0]
        assert left_corner[0] < right_corner[0]
        assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_corner[1], right_corner[1])


def _brightness(image: np.ndarray, x: float, y: float, radius: int) -> float:
    column, row = int(x), int(y)
    return float(image[row - radius : row + radius + 1, column - radius : column + radius + 1].mean())


def test_the_pupil_is_at_the_eye_landmark(large: list[Portrait]) -> None:
    for portrait in large:
        for x, y in portrait.landmarks[:2]:
            pupil = _brightness(portrait.image, x, y, 2)
            beside = [_brightness(portrait.image, x + step, y, 2) for step in (-20, 20)]
            assert pupil < 60
            assert pupil < 0.7 * min(beside)


def test_the_darkest_spot_near_the_eye_landmark_is_centred_on_it(large: list[Portrait]) -> None:
    for portrait in large:
        for x, y in portrait.landmarks[:2]:
            left, top = round(float(x)) - 9, round(float(y)) - 4
            patch = portrait.image[top : top + 9, left : left + 19].mean(axis=2)
            rows, columns = np.nonzero(patch < patch.min() + 12)
            assert abs(columns.mean() + left + 0.5 - x) < 3
            assert abs(rows.mean() + top + 0.5 - y) < 3


def test_the_lips_reach_from_corner_to_corner() -> None:
    """Inside the corners lies a lip, redder than the skin outside them."""
    redder = []
    for seed in range(12):
        portrait = draw_portrait(seed, 512)
        left, right = portrait.landmarks[3:]
        lip = portrait.image[int(left[1]) - 3 : int(left[1]) + 4, int(left[0]) + 8 : int(left[0]) + 20].mean(
            axis=(0, 1)
        )
        skin = portrait.image[int(left[1]) - 3 : int(left[1]) + 4, int(left[0]) - 24 : int(left[0]) - 12].mean(
            axis=(0, 1)
        )
        redder.append(lip[0] / lip[1] > skin[0] / skin[1])
        assert 80 < float(right[0] - left[0]) < 150
    assert np.mean(redder) > 0.8


def test_there_is_detail_for_a_degradation_to_lose(large: list[Portrait]) -> None:
    for portrait in large:
        shrunk = cv2.resize(portrait.image, (128, 128), interpolation=cv2.INTER_AREA)
        back = cv2.resize(shrunk, (512, 512), interpolation=cv2.INTER_CUBIC)
        assert np.abs(back.astype(np.float32) - portrait.image).mean() > 1


@pytest.mark.parametrize(("seed", "side"), [(-1, 64), (0, 0)])
def test_impossible_arguments_are_refused(seed: int, side: int) -> None:
    with pytest.raises(ValueError, match="seed of 0 or more and a side of 1 or more"):
        draw_portrait(seed, side)
