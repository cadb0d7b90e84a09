"""Each step alone: what it draws and what it does to an image."""

import numpy as np
import pytest
from pydantic import ValidationError

from degradations import DegradationError, Recipe, decode_image, enlarge
from degradations.blur import BlurStep, blur
from degradations.images import Uint8Image, to_float, to_uint8
from degradations.jpeg import JpegStep, compress, encode_jpeg
from degradations.kernels import gaussian_1d, gaussian_2d, scaled_ksize
from degradations.noise import NoiseStep, add_noise
from degradations.resample import MIN_SIDE, DownsampleStep, downsample


def test_draws_stay_in_their_ranges() -> None:
    rng = np.random.default_rng(0)
    blurs = [BlurStep(sigma=(0.1, 15)).draw(rng) for _ in range(400)]
    assert {drawn["ksize"] for drawn in blurs} == {39, 41}
    assert all(0.1 <= drawn[axis] <= 15 for drawn in blurs for axis in ("sigma_x", "sigma_y"))
    assert min(d["theta"] for d in blurs) < -3 and max(d["theta"] for d in blurs) > 3
    assert 160 < sum(drawn["kernel"] == "isotropic" for drawn in blurs) < 240
    assert all(d["sigma_x"] == d["sigma_y"] and d["theta"] == 0 for d in blurs if d["kernel"] == "isotropic")
    assert {JpegStep(quality=(30, 32)).draw(rng)["quality"] for _ in range(50)} == {30, 31}


def test_draws_after_a_blur_do_not_depend_on_its_kind() -> None:
    after = []
    for probability in (0.0, 1.0):
        rng = np.random.default_rng(3)
        BlurStep(sigma=(0.1, 10), isotropic_probability=probability).draw(rng)
        after.append(rng.random())
    assert after[0] == after[1]


def test_isotropic_kernel_is_separable(face: Uint8Image) -> None:
    np.testing.assert_allclose(np.outer(gaussian_1d(39, 2.5), gaussian_1d(39, 2.5)), gaussian_2d(39, 2.5, 2.5, 0.8))
    image = to_float(face)
    fast = blur(image, kernel="isotropic", ksize=41, sigma_x=6.0, sigma_y=6.0, theta=0.0)
    plain = blur(image, kernel="anisotropic", ksize=41, sigma_x=6.0, sigma_y=6.0, theta=0.0)
    np.testing.assert_allclose(fast, plain, atol=1e-5)


def test_narrowest_blur_is_the_identity(face: Uint8Image) -> None:
    image = to_float(face)
    for kernel in ("isotropic", "anisotropic"):
        same = blur(image, kernel=kernel, ksize=39, sigma_x=0.1, sigma_y=0.1, theta=1.0)
        np.testing.assert_allclose(same, image, atol=1e-5)


def test_rotation_turns_from_x_towards_y() -> None:
    dot = np.zeros((41, 41, 3), dtype=np.float32)
    dot[20, 20] = 1
    streak = blur(dot, kernel="anisotropic", ksize=39, sigma_x=8.0, sigma_y=1.0, theta=np.pi / 4)[..., 0]
    assert streak[26, 26] > 100 * streak[26, 14]


def test_kernel_sides_stay_odd_at_every_size() -> None:
    assert [scaled_ksize(39, scale) for scale in (1.0, 0.5, 0.125, 0.01)] == [39, 21, 5, 1]
    assert all(scaled_ksize(41, side / 512) % 2 == 1 for side in range(16, 1025))


@pytest.mark.parametrize(("r", "side"), [(0.8, 639), (4.0, 128), (7.3, 70), (30.0, 17), (512.0, MIN_SIDE)])
def test_downsampled_side(face: Uint8Image, r: float, side: int) -> None:
    assert downsample(to_float(face), r).shape == (side, side, 3)


def test_noise_has_its_sigma_and_is_independent_between_channels() -> None:
    gray = np.full((256, 256, 3), 0.5, dtype=np.float32)
    noise = (add_noise(gray, sigma=20, seed=1) - gray).reshape(-1, 3) * 255
    np.testing.assert_allclose(noise.std(axis=0), 20, rtol=0.02)
    assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.02
    white = add_noise(np.ones_like(gray), sigma=20, seed=1)
    assert white.dtype == np.float32 and white.min() >= 0 and white.max() == 1


def test_jpeg_keeps_rgb_order(face: Uint8Image) -> None:
    red = np.zeros((16, 16, 3), dtype=np.uint8)
    red[..., 0] = 250
    np.testing.assert_allclose(decode_image(encode_jpeg(red, 95))[8, 8].astype(int), [250, 0, 0], atol=4)
    through_float = to_uint8(compress(to_float(face), 60))
    np.testing.assert_array_equal(through_float, decode_image(encode_jpeg(face, 60)))


def test_eight_bits_survive_the_way_through_floats() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    np.testing.assert_array_equal(to_uint8(to_float(levels)), levels)
    np.testing.assert_array_equal(enlarge(levels, 16), levels)


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(DegradationError, match="not an image"):
        decode_image(b"")
    with pytest.raises(DegradationError, match="not an image"):
        decode_image(b"plain text")
    with pytest.raises(DegradationError, match="uint8 RGB"):
        enlarge(np.zeros((4, 4), dtype=np.uint8), 8)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: NoiseStep(sigma=(20, 0)), "low <= high"),
        (lambda: BlurStep(sigma=(0, 10)), "above 0"),
        (lambda: BlurStep(sigma=(1, 10), ksizes=(40,)), "odd"),
        (lambda: DownsampleStep(r=(0, 8)), "above 0"),
        (lambda: JpegStep(quality=(0, 101)), "1 to 100"),
        (lambda: Recipe(name="x", source="y", steps=(NoiseStep(sigma=(0, 1)),)), "must end with a jpeg step"),
    ],
)
def test_impossible_ranges_are_refused(build: object, message: str) -> None:
    assert callable(build)
    with pytest.raises(ValidationError, match=message):
        build()
