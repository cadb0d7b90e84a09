"""Each step alone: what it draws and what it does to an image."""

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from degradations import DegradationError, Recipe, decode_image, enlarge, get_recipe
from degradations.blur import BlurStep, blur
from degradations.colour import ColourShiftStep, jitter_colours, make_gray, shift_colours
from degradations.finish import sinc_and_jpeg
from degradations.fourier import Spectrum, margin_for
from degradations.images import Uint8Image, to_float, to_uint8
from degradations.jpeg import JpegStep, compress, encode_jpeg
from degradations.kernels import gaussian_2d, generalized_2d, motion_2d, plateau_2d, scaled_ksize, sinc_2d
from degradations.motion_blur import motion_blur
from degradations.noise import NoiseStep, add_mixed_noise, add_noise
from degradations.resample import MIN_SIDE, DownsampleStep, ResizeStep, downsample, resize


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


@pytest.mark.parametrize(("height", "width"), [(512, 512), (101, 37), (24, 24)])
@pytest.mark.parametrize("ksize", [1, 5, 39, 41])
def test_blurring_in_the_frequency_domain_is_a_correlation(
    height: int, width: int, ksize: int, face: Uint8Image
) -> None:
    image = to_float(face[:height, :width])
    weights = gaussian_2d(ksize, 9.0, 2.0, 0.7)
    weights[0] *= 2  # a kernel that is not its own mirror image
    plain = cv2.filter2D(image, -1, weights, borderType=cv2.BORDER_REFLECT_101)
    # less than a thousandth of an 8-bit level
    np.testing.assert_allclose(Spectrum(image, margin_for(ksize)).correlate(weights), plain, atol=2e-6)
    np.testing.assert_allclose(Spectrum(image, margin_for(41)).correlate(weights), plain, atol=2e-6)


def test_an_isotropic_blur_has_one_sigma(face: Uint8Image) -> None:
    image = to_float(face)
    same = blur(image, kernel="isotropic", ksize=41, sigma_x=6.0, sigma_y=1.0, theta=1.0)
    plain = blur(image, kernel="anisotropic", ksize=41, sigma_x=6.0, sigma_y=6.0, theta=0.0)
    np.testing.assert_array_equal(same, plain)


def test_relatives_of_the_gaussian() -> None:
    shape = {"ksize": 15, "sigma_x": 2.0, "sigma_y": 1.0, "theta": 0.4}
    np.testing.assert_allclose(generalized_2d(**shape, beta=1), gaussian_2d(**shape))
    flat = generalized_2d(15, 3.0, 3.0, 0.0, beta=8)
    assert flat[7, 8] == pytest.approx(flat[7, 7], rel=1e-3)
    plateau = plateau_2d(15, 2.0, 2.0, 0.0, beta=2)
    assert plateau[7, 9] == pytest.approx(plateau[7, 7] / 2), "half the height at one sigma, whatever beta"
    assert all(kernel.sum() == pytest.approx(1) for kernel in (flat, plateau))


def test_a_sinc_filter_keeps_what_is_below_its_cutoff() -> None:
    response = np.abs(np.fft.fft2(sinc_2d(101, np.pi / 3), (600, 600)))[0]
    frequencies = np.arange(600) * 2 * np.pi / 600
    np.testing.assert_allclose(response[frequencies < np.pi / 4], 1, atol=0.1)
    assert response[(frequencies > np.pi / 2.4) & (frequencies < np.pi)].max() < 0.1
    np.testing.assert_array_equal(sinc_2d(1, 2.0), [[1.0]])


def test_motion_blurs_along_its_angle_by_its_length() -> None:
    np.testing.assert_allclose(motion_2d(5, 0.0)[3], [0, 0.2, 0.2, 0.2, 0.2, 0.2, 0])
    dot = np.zeros((21, 21, 3), dtype=np.float32)
    dot[10, 10] = 1
    streak = motion_blur(dot, length=9.0, angle=np.pi / 4)[..., 0]
    assert streak[13, 13] > 0.05 and streak[13, 7] == 0 and streak[15, 15] == 0


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


def test_mixed_kernels_are_drawn_as_often_as_published() -> None:
    step = get_recipe("real-esrgan").steps[0]
    drawn = [step.draw(np.random.default_rng(seed)) for seed in range(1000)]
    kernels = [values["kernel"] for values in drawn]
    assert 70 < kernels.count("sinc") < 130
    assert 360 < kernels.count("iso") < 450  # 0.45 of the others
    assert 10 < kernels.count("plateau_aniso") < 50
    assert {values["ksize"] for values in drawn} == set(range(7, 22, 2))
    betas = [values["beta"] for values in drawn if values["kernel"].startswith("generalized")]
    assert min(betas) < 0.7 and max(betas) > 3 and 0.3 < np.mean(np.less(betas, 1)) < 0.7
    assert all(values["beta"] <= 2 for values in drawn if values["kernel"].startswith("plateau"))
    assert all(values["sigma_x"] == values["sigma_y"] for values in drawn if values["kernel"].endswith("_iso"))


def test_resizing_goes_up_down_or_nowhere(face: Uint8Image) -> None:
    step = ResizeStep(up=0.2, down=0.7, scale=(0.15, 1.5))
    drawn = [step.draw(np.random.default_rng(seed)) for seed in range(500)]
    scales = np.array([values["scale"] for values in drawn])
    assert 70 < (scales > 1).sum() < 130 and 320 < (scales < 1).sum() < 380
    assert {values["filter"] for values in drawn} == {"area", "bilinear", "bicubic"}
    image = to_float(face)
    assert resize(image, 0.5, "area").shape == (256, 256, 3)
    assert resize(image, 0.5, "bicubic", side=100).shape == (50, 50, 3)


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


def test_gray_noise_is_the_same_in_all_channels() -> None:
    gray = np.full((64, 64, 3), 0.5, dtype=np.float32)
    for kind, amount in (("gaussian", 10.0), ("poisson", 1.0)):
        noise = add_mixed_noise(gray, kind, amount, gray=True, seed=1) - gray
        np.testing.assert_array_equal(noise[..., 0], noise[..., 2])
        coloured = add_mixed_noise(gray, kind, amount, gray=False, seed=1) - gray
        assert np.abs(np.corrcoef(coloured.reshape(-1, 3).T) - np.eye(3)).max() < 0.1


def test_shot_noise_grows_with_the_light_and_the_scale() -> None:
    ramp = np.tile(np.repeat(np.linspace(0.1, 0.6, 64, dtype=np.float32), 8)[None, :, None], (400, 1, 3))
    noise = add_mixed_noise(ramp, "poisson", 1.0, gray=False, seed=3) - ramp
    # 64 levels are 64 counts, so the variance is value / 64
    np.testing.assert_allclose(noise.reshape(400, 64, -1).var(axis=(0, 2)), ramp[0, ::8, 0] / 64, rtol=0.15)
    half = add_mixed_noise(ramp, "poisson", 0.5, gray=False, seed=3) - ramp
    assert half.std() == pytest.approx(noise.std() / 2, rel=0.01)


def test_colours_shift_by_channel() -> None:
    image = np.full((4, 4, 3), 0.5, dtype=np.float32)
    shifted = shift_colours(image, (10, 0, -255))
    np.testing.assert_allclose(shifted[0, 0], [0.5 + 10 / 255, 0.5, 0])
    step = ColourShiftStep(shift=20, probability=0.3)
    drawn = [step.draw(np.random.default_rng(seed)) for seed in range(300)]
    applied = [values for values in drawn if values is not None]
    assert 65 < len(applied) < 115
    assert 15 < np.abs([values["shifts"] for values in applied]).max() <= 20


@pytest.mark.parametrize(
    ("name", "amount"), [("brightness", 1.4), ("contrast", 0.6), ("saturation", 1.4), ("hue", -0.08)]
)
def test_jitter_is_that_of_torchvision(name: str, amount: float, face: Uint8Image) -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    torch = pytest.importorskip("torch")
    image = to_float(face)
    ours = jitter_colours(image, [(name, amount)])  # type: ignore[list-item]
    theirs = getattr(functional, f"adjust_{name}")(torch.from_numpy(image).permute(2, 0, 1), amount)
    np.testing.assert_allclose(ours, theirs.permute(1, 2, 0).numpy(), atol=1e-3)


def test_gray_has_equal_channels_and_keeps_gray() -> None:
    red = np.zeros((4, 4, 3), dtype=np.float32)
    red[..., 0] = 1
    np.testing.assert_allclose(make_gray(red), 0.299, atol=1e-6)
    half = np.full((4, 4, 3), 0.5, dtype=np.float32)
    np.testing.assert_allclose(make_gray(half), half, atol=1e-6)


def test_the_last_step_of_real_esrgan_rings_before_or_after_its_blocks(face: Uint8Image) -> None:
    image = to_float(face)
    arguments = {"side": 128.0, "filter": "area", "ksize": 21, "cutoff": 1.2, "quality": 40}
    small = resize(image, 1.0, "area", 128)
    last = sinc_and_jpeg(image, jpeg_first=False, **arguments)
    first = sinc_and_jpeg(image, jpeg_first=True, **arguments)
    assert last.shape == first.shape == (128, 128, 3)
    assert min(last.min(), first.min()) >= 0 and max(last.max(), first.max()) <= 1
    blocks = [np.abs(np.diff(result, axis=1)) for result in (last, first)]
    edges = [step[:, 7::8].mean() / step.mean() for step in blocks]
    assert edges[0] > edges[1], "the blocks of 8 pixels are there only where the JPEG came last"
    plain = sinc_and_jpeg(image, jpeg_first=False, **(arguments | {"ksize": 1, "quality": 100}))
    assert np.abs(plain - small).mean() < 0.01


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
        (lambda: ResizeStep(up=0.2, down=0.7, scale=(1.1, 1.5)), "holds 1"),
        (lambda: get_recipe("real-esrgan").steps[0].model_validate({"kernels": {"iso": 0.5}}), "add up to 1"),
        (lambda: NoiseStep(sigma=(0, 20), probability=1.5), "less than or equal to 1"),
        (lambda: Recipe(name="x", source="y", steps=()), "at least 1 item"),
    ],
)
def test_impossible_ranges_are_refused(build: object, message: str) -> None:
    assert callable(build)
    with pytest.raises(ValidationError, match=message):
        build()
