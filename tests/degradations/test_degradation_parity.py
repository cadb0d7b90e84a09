"""Parity with the reference implementation's degradation, on its golden figures."""

from typing import Any

import numpy as np
import pytest

from degradations import decode_image, degrade, enlarge, get_recipe, replay
from degradations.images import Uint8Image
from degradations.kernels import gaussian_2d

DRAWS = 400
KINDS = {"iso": "isotropic", "aniso": "anisotropic"}


def psnr(a: Uint8Image, b: Uint8Image) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(np.float64) - b) ** 2)))


def test_kernels_have_the_golden_centre_rows(golden: dict[str, Any]) -> None:
    for row in golden["kernels"]:
        kernel = gaussian_2d(row["ksize"], row["sigma_x"], row["sigma_y"], row["theta"])
        assert kernel.sum() == pytest.approx(1)
        # Down to 1e-317, the tail of a kernel 0.4 pixels wide.
        np.testing.assert_allclose(kernel[row["ksize"] // 2, ::4], row["centre_row"], rtol=1e-5)


def test_fixed_degradations_are_the_golden_ones(golden: dict[str, Any], golden_faces: dict[str, Uint8Image]) -> None:
    for row in golden["degraded"]:
        hq = golden_faces[row["image"]]
        blur = {name: row[name] for name in ("ksize", "sigma_x", "sigma_y", "theta")}
        steps = [
            {"op": "blur", "kernel": KINDS[row["kernel"]], **blur},
            {"op": "downsample", "r": row["scale"]},
            {"op": "jpeg", "quality": row["jpeg"]},
        ]
        small = decode_image(replay(hq, {"steps": steps}))
        lq = enlarge(small, 512)

        assert list(small.shape[:2]) == row["lq_shape"]
        assert psnr(lq, hq) == pytest.approx(row["psnr"], abs=0.001)
        assert lq.mean() == pytest.approx(row["lq_mean"], abs=0.005)
        assert lq.std() == pytest.approx(row["lq_std"], abs=0.005)
        # The golden pixels lie on a 4 x 4 grid from (64, 64), in BGR order.
        pixels = lq[64::128, 64::128, ::-1].reshape(-1, 3).astype(int)
        assert np.abs(pixels - row["sample"]).max() <= 1


@pytest.mark.parametrize("severity", ["mild", "severe"])
def test_random_recipes_spoil_as_much_as_the_golden_ones(
    severity: str, golden: dict[str, Any], golden_faces: dict[str, Uint8Image]
) -> None:
    recipe, expected = get_recipe(f"daefr-{severity}"), golden["recipe_statistics"][severity]
    faces = list(golden_faces.values())
    values = []
    for index in range(DRAWS):
        hq = faces[index % len(faces)]
        degraded = degrade(hq, recipe, np.random.default_rng([0, index]))
        values.append(psnr(enlarge(decode_image(degraded.file), 512), hq))

    assert np.mean(values) == pytest.approx(expected["psnr_mean"], abs=0.3)
    assert np.std(values) == pytest.approx(expected["psnr_std"], abs=0.3)
    percentiles = np.percentile(values, [5, 25, 50, 75, 95])
    np.testing.assert_allclose(percentiles, expected["psnr_percentiles_5_25_50_75_95"], atol=0.8)
