"""The albumentations transforms: the same pixels, both dtypes, serializable."""

import json
import random

import albumentations as A
import numpy as np
import pytest

from degradations import RECIPES, Recipe, decode_image, degrade
from degradations.images import Uint8Image, to_float, to_uint8
from degradations.transforms import JPEG, Downsample, GaussianBlur, GaussianNoise, StepTransform, compose

TRANSFORMS = [
    GaussianBlur(sigma=(0.1, 10)),
    Downsample(r=(0.8, 8)),
    GaussianNoise(sigma=(0, 20)),
    JPEG(quality=(30, 60)),
]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_one_generator_drives_the_pipeline_as_it_drives_the_chain(face: Uint8Image, recipe: Recipe) -> None:
    pipeline = compose(recipe)
    for seed in range(3):
        pipeline.set_random_state(np.random.default_rng(seed), random.Random(0))
        # Floats between the steps, as in the chain.
        lq = to_uint8(pipeline(image=to_float(face))["image"])
        np.testing.assert_array_equal(lq, decode_image(degrade(face, recipe, np.random.default_rng(seed)).jpeg))


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda transform: type(transform).__name__)
def test_uint8_and_float_agree(face: Uint8Image, transform: StepTransform) -> None:
    transform.set_random_seed(3)
    bytes_out = transform(image=face)["image"]
    transform.set_random_seed(3)
    float_out = transform(image=to_float(face))["image"]
    assert bytes_out.dtype == np.uint8 and float_out.dtype == np.float32
    assert bytes_out.shape == float_out.shape
    assert np.abs(bytes_out.astype(int) - to_uint8(float_out)).max() <= 1


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_serialization_round_trip(face: Uint8Image, recipe: Recipe) -> None:
    pipeline = compose(recipe)
    again = A.from_dict(json.loads(json.dumps(A.to_dict(pipeline))))
    pipeline.set_random_seed(8)
    again.set_random_seed(8)
    np.testing.assert_array_equal(pipeline(image=face)["image"], again(image=face)["image"])
    assert [transform.step for transform in again.transforms] == list(recipe.steps)
    assert all(transform.p == 1 for transform in again.transforms)


def test_probability_is_kept() -> None:
    assert A.from_dict(A.to_dict(JPEG(quality=(30, 60), p=0.25))).p == 0.25


def test_replay_applies_the_same_values(face: Uint8Image) -> None:
    pipeline = A.ReplayCompose(TRANSFORMS)
    first = pipeline(image=face)
    again = A.ReplayCompose.replay(first["replay"], image=face)
    np.testing.assert_array_equal(first["image"], again["image"])


def test_images_need_not_be_square(face: Uint8Image) -> None:
    assert Downsample(r=(4, 4))(image=face[:300])["image"].shape == (75, 128, 3)
