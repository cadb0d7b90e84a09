"""PSNR, SSIM and NIQE: identities that must hold, and the golden figures of degraded faces."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from daefr.errors import UserError
from daefr.images import Image
from daefr.metrics import fidelity
from daefr.metrics.niqe import Niqe
from degradations import decode_image, enlarge
from degradations.images import to_float, to_uint8
from degradations.jpeg import encode_jpeg
from degradations.kernels import gaussian_2d
from degradations.resample import downsample
from tests.daefr import tiny
from tests.daefr.reference import needs_reference, path

TOLERANCE = 1e-3
SSIM_TOLERANCE = 1e-5
SHARED = Path(__file__).resolve().parents[3] / "shared"
FACES, NIQE_MODEL = SHARED / "faces" / "val", SHARED / "weights" / "niqe_pris_params.npz"


def _batch(*images: Image) -> Tensor:
    return torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in images])


def psnr(image: Image, target: Image) -> float:
    return fidelity.psnr(_batch(image), _batch(target)).item()


def ssim(image: Image, target: Image) -> float:
    return fidelity.ssim(_batch(image), _batch(target)).item()


@pytest.fixture
def face() -> Image:
    return tiny.face(np.random.default_rng(0), 40)


def test_an_image_equals_itself(face: Image) -> None:
    assert psnr(face, face) == float("inf")
    assert ssim(face, face) == pytest.approx(1)


def test_psnr_of_a_known_error(face: Image) -> None:
    dark = face // 2
    assert psnr(dark + np.uint8(10), dark) == pytest.approx(20 * np.log10(255 / 10))
    one_channel = dark.copy()
    one_channel[:, :, 1] += 10
    # a third of the squared error
    assert psnr(one_channel, dark) == pytest.approx(20 * np.log10(255 / 10) + 10 * np.log10(3))
    black, white = np.zeros_like(face), np.full_like(face, 255)
    assert psnr(black, white) == pytest.approx(0, abs=1e-5)


def test_ssim_of_flat_images_compares_their_brightness() -> None:
    first, second = np.full((20, 20, 3), 100, np.uint8), np.full((20, 20, 3), 150, np.uint8)
    stabilizer = (0.01 * 255) ** 2
    expected = (2 * 100 * 150 + stabilizer) / (100**2 + 150**2 + stabilizer)
    assert ssim(first, second) == pytest.approx(expected, abs=SSIM_TOLERANCE)


def test_ssim_averages_the_channels(face: Image) -> None:
    grays = [np.repeat(face[:, :, channel : channel + 1], 3, axis=2) for channel in range(3)]
    other = cv2.GaussianBlur(face, (0, 0), 2)
    blurred = [np.repeat(other[:, :, channel : channel + 1], 3, axis=2) for channel in range(3)]
    each = [ssim(gray, blur) for gray, blur in zip(grays, blurred, strict=True)]
    assert ssim(face, other) == pytest.approx(np.mean(each))


def test_ssim_looks_where_the_window_fits_whole() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (11, 11, 3)).astype(np.uint8)
    other = rng.integers(0, 256, (11, 11, 3)).astype(np.uint8)
    # exactly one window: the definition, written out
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(weights, weights)[:, :, None] / weights.sum() ** 2
    x, y = image.astype(float), other.astype(float)
    mean_x, mean_y = (window * x).sum((0, 1)), (window * y).sum((0, 1))
    var_x, var_y = (window * x**2).sum((0, 1)) - mean_x**2, (window * y**2).sum((0, 1)) - mean_y**2
    covariance = (window * x * y).sum((0, 1)) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    values /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    assert ssim(image, other) == pytest.approx(values.mean(), abs=1e-5)


def test_both_are_symmetric_and_fall_with_the_damage(face: Image) -> None:
    blurred = [cv2.GaussianBlur(face, (0, 0), sigma) for sigma in (0.5, 1, 2, 4)]
    for measure in (psnr, ssim):
        values = [measure(image, face) for image in blurred]
        assert values == sorted(values, reverse=True)
        assert measure(face, blurred[2]) == pytest.approx(values[2])


def test_images_of_a_batch_are_measured_apart(face: Image) -> None:
    dark, blurred = face // 2, np.asarray(cv2.GaussianBlur(face, (0, 0), 2), np.uint8)
    images, targets = _batch(face, dark, blurred), _batch(face, blurred, dark)
    for together, alone in ((fidelity.psnr, psnr), (fidelity.ssim, ssim)):
        each = [alone(face, face), alone(dark, blurred), alone(blurred, dark)]
        assert together(images, targets).tolist() == pytest.approx(each, rel=1e-5)


@pytest.fixture
def niqe(tmp_path: Path) -> Niqe:
    return Niqe.load(tiny.niqe_model(tmp_path / "niqe.npz"))


def _noise(seed: int, height: int = 200, width: int = 300) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_niqe_of_a_batch_is_that_of_each_image(niqe: Niqe) -> None:
    images = [_noise(0), cv2.GaussianBlur(_noise(1), (0, 0), 2).astype(np.uint8), _noise(2) // 4]
    together = niqe(_batch(*images)).tolist()
    assert together == pytest.approx([niqe(_batch(image)).item() for image in images], abs=TOLERANCE)
    assert len({round(value, 3) for value in together}) == 3


def test_niqe_looks_at_whole_blocks_of_96_pixels(niqe: Niqe) -> None:
    image = _noise(0, 200, 300)
    changed = image.copy()
    changed[192:], changed[:, 288:] = 0, 0
    assert niqe(_batch(changed)).item() == niqe(_batch(image[:192, :288])).item() == niqe(_batch(image)).item()


def test_niqe_is_not_defined_for_less_than_two_blocks_or_flat_images(niqe: Niqe) -> None:
    assert niqe(_batch(_noise(0, 100, 191))).isnan().all()
    flat = np.full((192, 192, 3), 77, np.uint8)
    values = niqe(_batch(flat, _noise(0, 192, 192)))
    assert values.isnan().tolist() == [True, False]


def test_another_file_is_no_niqe_model(tmp_path: Path) -> None:
    path = tmp_path / "niqe_pris_params.npz"
    for content in (b"", b"not an archive"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="niqe_pris_params"):
            Niqe.load(path)
    np.savez(path, mu_pris_param=np.zeros(36))
    with pytest.raises(UserError, match="cov_pris_param"):
        Niqe.load(path)


def _golden() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path("golden_metrics.json").read_text())
    return content


def _degraded(hq: Image, row: dict[str, Any]) -> bytes:
    """As the golden figures were made: NIQE sees even a rounding that a blur in the frequency domain turns."""
    kernel = gaussian_2d(row["ksize"], row["sigma_x"], row["sigma_y"], row["theta"])
    small = downsample(cv2.filter2D(to_float(hq), -1, kernel).astype(np.float32), row["scale"])
    return encode_jpeg(to_uint8(small), row["jpeg"])


@needs_reference
@pytest.mark.skipif(not FACES.is_dir(), reason=f"the faces of the golden figures are not at {FACES}")
def test_faces_have_the_golden_measures() -> None:
    golden, niqe = _golden(), Niqe.load(NIQE_MODEL)
    for row in golden["images"]:
        face = decode_image((FACES / row["image"]).read_bytes())
        assert niqe(_batch(face)).item() == pytest.approx(row["niqe"], abs=TOLERANCE)
    for row in golden["degraded"]:
        hq = decode_image((FACES / row["image"]).read_bytes())
        lq = enlarge(decode_image(_degraded(hq, row)), hq.shape[0])
        assert psnr(lq, hq) == pytest.approx(row["psnr"], abs=TOLERANCE)
        assert ssim(lq, hq) == pytest.approx(row["ssim"], abs=TOLERANCE)
        # OpenCV's blur rounds by processor, which NIQE sees after JPEG
        assert niqe(_batch(lq)).item() == pytest.approx(row["niqe_lq"], abs=0.02)
