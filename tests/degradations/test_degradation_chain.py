"""The whole chain: reproducible, JSON-able, and the same blur at every size."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from degradations import (
    RECIPES,
    DegradationError,
    Face,
    Recipe,
    UnknownRecipeError,
    decode_image,
    degrade,
    enlarge,
    get_recipe,
    replay,
)
from degradations.images import Uint8Image

ROOT = Path(__file__).resolve().parents[2]
SEVERE = get_recipe("daefr-severe")

IN_ANOTHER_PROCESS = """
import hashlib, sys
import cv2, numpy as np
from degradations import decode_image, degrade, get_recipe
cv2.setNumThreads(1)
face = decode_image(open(sys.argv[1], "rb").read())
samples = (degrade(face, get_recipe("daefr-severe"), np.random.default_rng([5, i])) for i in range(6))
print(hashlib.sha256(b"".join(sample.file for sample in samples)).hexdigest())
"""


def test_same_seed_same_sample(face: Uint8Image) -> None:
    first = degrade(face, SEVERE, np.random.default_rng(11))
    assert degrade(face, SEVERE, np.random.default_rng(11)) == first
    other = degrade(face, SEVERE, np.random.default_rng(12))
    assert other.file != first.file and other.params != first.params


def test_same_bytes_in_another_process_with_one_thread(face: Uint8Image, tmp_path: Path) -> None:
    path = tmp_path / "face.png"
    cv2.imwrite(str(path), face[..., ::-1])
    here = b"".join(degrade(face, SEVERE, np.random.default_rng([5, i])).file for i in range(6))
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(path)]
    there = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    assert there == hashlib.sha256(here).hexdigest()


def test_global_random_states_play_no_part(face: Uint8Image) -> None:
    np.random.seed(0)
    before = np.random.get_state()[1].copy()  # type: ignore[index]
    degrade(face, SEVERE, np.random.default_rng(0))
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # type: ignore[index]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_recorded_parameters_rebuild_the_sample(face: Uint8Image, recipe: Recipe) -> None:
    for seed in range(5):
        degraded = degrade(face, recipe, np.random.default_rng(seed))
        recorded = json.loads(json.dumps(degraded.params))
        assert recorded == degraded.params
        assert replay(face, recorded) == degraded.file
        left_out = [step.op for step in recipe.steps]
        for step in recorded["steps"]:
            del left_out[: left_out.index(step["op"]) + 1]  # in the recipe's order
        small = decode_image(degraded.file)
        assert small.shape == (recorded["side"], recorded["side"], 3)
        assert enlarge(small, 512).shape == face.shape


def test_a_jpeg_is_kept_as_it_is_and_what_was_changed_after_it_as_png(face: Uint8Image) -> None:
    """The DAEFR recipes end with JPEG; GFP-GAN changes the colours of some faces after it."""
    seen = set()
    for seed in range(12):
        degraded = degrade(face, get_recipe("gfpgan"), np.random.default_rng(seed))
        ops = [step["op"] for step in degraded.params["steps"]]
        assert ops[:4] == ["blur", "downsample", "noise", "jpeg"]
        assert degraded.suffix == ("jpg" if len(ops) == 4 else "png")
        assert degraded.file.startswith(b"\xff\xd8" if degraded.suffix == "jpg" else b"\x89PNG")
        seen.add(degraded.suffix)
    assert seen == {"jpg", "png"}


def test_a_step_is_left_out_as_often_as_its_probability_says(face: Uint8Image) -> None:
    small = cv2.resize(face, (32, 32), interpolation=cv2.INTER_AREA).astype(np.uint8)
    drawn = [degrade(small, get_recipe("real-esrgan"), np.random.default_rng(seed)).params for seed in range(300)]
    blurred_twice = sum([step["op"] for step in params["steps"]].count("mixed_blur") == 2 for params in drawn)
    assert 220 < blurred_twice < 260  # 0.8 of 300
    assert {params["side"] for params in drawn} == {8}


def test_a_face_that_was_degraded_before_gives_the_same_samples(face: Uint8Image) -> None:
    shared = Face(face)
    recipes = [get_recipe("daefr-mild"), SEVERE, get_recipe("real-esrgan")]
    for recipe in [*recipes, *recipes]:
        again = degrade(shared, recipe, np.random.default_rng(6))
        assert again == degrade(face, recipe, np.random.default_rng(6))
        assert replay(shared, again.params) == again.file


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_recipes_are_data(recipe: Recipe) -> None:
    assert recipe.source
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_only_the_blur_scales_with_the_resolution(face: Uint8Image) -> None:
    quarter = cv2.resize(face, (128, 128), interpolation=cv2.INTER_AREA).astype(np.uint8)
    large = degrade(face, SEVERE, np.random.default_rng(2)).params
    small = degrade(quarter, SEVERE, np.random.default_rng(2)).params
    assert large["steps"][1:] == small["steps"][1:]
    blur_large, blur_small = large["steps"][0], small["steps"][0]
    assert blur_small["sigma_x"] == pytest.approx(blur_large["sigma_x"] / 4)
    assert blur_small["sigma_y"] == pytest.approx(blur_large["sigma_y"] / 4)
    assert blur_small["theta"] == blur_large["theta"]
    assert blur_small["ksize"] in (9, 11) and blur_small["kernel"] == blur_large["kernel"]
    assert small["side"] == int(128 // small["steps"][1]["r"])


@pytest.mark.parametrize("side", [16, 64, 100, 640])
def test_any_resolution_works(face: Uint8Image, side: int) -> None:
    hq = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA).astype(np.uint8)
    for recipe in RECIPES.values():
        for seed in range(3):
            small = decode_image(degrade(hq, recipe, np.random.default_rng(seed)).file)
            assert min(small.shape[:2]) >= 2
            assert enlarge(small, side).shape == hq.shape


def test_a_face_is_square_uint8_rgb(face: Uint8Image) -> None:
    for wrong in (face[:100], face[..., 0], face.astype(np.float32)):
        with pytest.raises(DegradationError, match="square uint8 RGB"):
            degrade(wrong, SEVERE, np.random.default_rng(0))  # type: ignore[arg-type]


def test_unknown_recipe_lists_the_names() -> None:
    with pytest.raises(UnknownRecipeError, match="daefr-mild, daefr-severe, gfpgan, codeformer, real-esrgan"):
        get_recipe("daefr-sever")
