"""The tone of monochrome faces: kept whatever it is, judged by the face alone, and no coloured face has one."""

import io
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daefr.images import Image
from daefr.portraits import draw_portrait
from daefr.restore.tones import CELL, FACE_COLUMNS, FACE_ROWS, LUMA, find_tone
from tests.daefr.photographs import SHARED, needs_faces

SIDE = 512
BOUND = 6.0
"""Levels by which the colours of a monochrome face, at any lightness, may be off the photograph's tone on average."""
FACE = tuple(slice(int(SIDE * start), int(SIDE * end)) for start, end in (FACE_ROWS, FACE_COLUMNS))

GRAY = ((0, 0, 0), (255, 255, 255), (1, 1, 1))
TONES = {
    "gray": GRAY,
    "sepia": ((25, 15, 5), (250, 235, 195), (0.85, 1.0, 1.2)),
    "selenium": ((30, 20, 35), (245, 245, 245), (1, 1, 1)),
    "cyanotype": ((5, 30, 75), (235, 245, 250), (1.5, 1.05, 0.8)),
    "split": ((10, 20, 45), (255, 240, 200), (1, 1, 1)),
    "faded": ((85, 70, 55), (225, 205, 165), (1, 1, 1)),
}
Curve = tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]


def _toned(image: Image, curve: Curve) -> Image:
    """Print an image in one tone: black, white and exponent of each channel."""
    black, white, exponent = (np.array(part, np.float64) for part in curve)
    light = (image @ LUMA)[..., None] / 255
    return np.asarray(np.rint(black + (white - black) * light**exponent), np.uint8)


def _off_tone(image: Image, crop: Image, curve: Curve) -> float:
    """Return by how many levels the face's colours are off a tone at most, on average over pixels of one lightness.

    Those count that the crop has.
    """
    ramp = _toned(np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2), curve)[:, 0]
    face, light, of_ramp = image[FACE], image[FACE] @ LUMA, ramp @ LUMA
    off = [face[..., c] - light - np.interp(light, of_ramp, ramp[:, c] - of_ramp) for c in range(3)]
    inside = (light >= of_ramp[0]) & (light <= of_ramp[-1])  # beyond, the tone has no colours
    there = np.bincount((crop[FACE] @ LUMA).astype(int).ravel() // 16, minlength=16) > 0.01 * light.size
    bands = [inside & (light // 16 == band) for band in range(16) if there[band]]
    return max(abs(float(each[band].mean())) for each in off for band in bands if band.sum() > 200)


def _photographed(crop: Image, pixels: int, quality: int | None) -> Image:
    """Return a crop as it comes from a photograph in which it has so many pixels, saved as JPEG unless None."""
    small = cv2.resize(crop, (pixels, pixels), interpolation=cv2.INTER_AREA)
    if quality is not None:
        data = io.BytesIO()
        PIL.Image.fromarray(small).save(data, "JPEG", quality=quality)
        small = np.asarray(PIL.Image.open(data))
    return np.asarray(cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), np.uint8)


channels = st.tuples(*[st.floats(0.75, 1.5)] * 3)
curves = st.one_of(
    st.sampled_from(list(TONES.values())),
    st.tuples(st.tuples(*[st.integers(0, 70)] * 3), st.tuples(*[st.integers(180, 255)] * 3), channels),
)


@settings(max_examples=15, deadline=None)
@given(curve=curves, seed=st.integers(0, 9), pixels=st.integers(128, SIDE), data=st.data())
def test_a_monochrome_face_keeps_its_tone(curve: Curve, seed: int, pixels: int, data: st.DataObject) -> None:
    coloured = draw_portrait(seed, SIDE).image
    crop = _toned(coloured, curve)
    around = data.draw(st.sampled_from(["nothing", "frame", "stamp"]))
    if around == "frame":
        crop[:, :70] = crop[:40] = (176, 120, 60)
    if around == "stamp":
        crop[400:500, 420:500] = (200, 30, 40)
    crop = _photographed(crop, pixels, data.draw(st.sampled_from([None, 70, 80, 95])))
    tone = find_tone(crop, SIDE / pixels)
    assert tone is not None
    restored = tone.apply(coloured)
    assert _off_tone(restored, crop, curve) < BOUND + 2, "any curve at all may be bent more than photographs' tones are"
    assert _off_tone(coloured, crop, curve) > BOUND, "which the network's colours are not"
    assert np.abs((restored - coloured.astype(float)) @ LUMA).mean() < 3, "its lightness is the network's"


@pytest.mark.parametrize("name", TONES)
def test_noise_and_grain_hide_no_tone(name: str) -> None:
    coloured = draw_portrait(3, SIDE).image
    noise = np.random.default_rng(0).normal(0, 6, coloured.shape)
    crop = np.clip(_toned(coloured, TONES[name]) + noise, 0, 255).astype(np.uint8)
    tone = find_tone(crop, 1.0)
    assert tone is not None
    assert _off_tone(tone.apply(coloured), crop, TONES[name]) < BOUND


def test_gray_stays_gray_to_the_last_level() -> None:
    coloured = draw_portrait(4, SIDE).image
    tone = find_tone(_toned(coloured, GRAY), 1.0)
    assert tone is not None
    restored = tone.apply(coloured)
    assert (restored == restored[..., :1]).all()


def test_what_is_coloured_beside_a_monochrome_face_keeps_its_colour() -> None:
    crop = _toned(draw_portrait(2, SIDE).image, TONES["sepia"])
    crop[:, :80], crop[20:80, 430:500] = (176, 120, 60), (30, 60, 200)
    tone = find_tone(crop, 1.0)
    assert tone is not None
    restored = tone.apply(crop)
    assert np.abs(restored.astype(int) - crop).mean() < 2
    for place in (np.s_[5:-5, 5:75], np.s_[25:75, 435:495]):
        assert np.abs(restored[place].astype(int) - crop[place]).max() < 10


@pytest.mark.parametrize("seed", range(12))
def test_a_coloured_portrait_has_no_tone(seed: int) -> None:
    for pixels in (CELL * 8, SIDE):
        assert find_tone(_photographed(draw_portrait(seed, SIDE).image, pixels, 85), SIDE / pixels) is None


@needs_faces
def test_real_coloured_faces_have_no_tone_and_gray_ones_have() -> None:
    for path in sorted((SHARED / "faces" / "val").glob("*.png")):
        face = _read(path)
        for pixels in (128, SIDE):
            assert find_tone(_photographed(face, pixels, 75), SIDE / pixels) is None
            for name, curve in TONES.items():
                toned = _photographed(_toned(face, curve), pixels, 75)
                tone = find_tone(toned, SIDE / pixels)
                assert tone is not None, name
                assert _off_tone(tone.apply(face), toned, curve) < BOUND, name


def _read(path: Path) -> Image:
    return np.asarray(PIL.Image.open(path).convert("RGB").resize((SIDE, SIDE)))


def test_crops_of_any_size_are_judged() -> None:
    for side in (1, 2, 5, 16, 33):
        crop = np.full((side, side, 3), (120, 100, 80), np.uint8)
        tone = find_tone(crop, side / 300)
        assert tone is not None
        assert np.abs(tone.apply(crop).astype(int) - crop).max() <= 1
