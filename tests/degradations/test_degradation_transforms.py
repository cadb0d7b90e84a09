"""The albumentations transforms: the same pixels, both dtypes, serializable."""

import json
import random

import albumentations as A
import numpy as np
import pytest

from degradations import RECIPES, Recipe, decode_image, degrade, get_recipe
from degradations.images import Uint8Image, to_float, to_uint8
from degradations.transforms import (
    JPEG,
    ColourJitter,
    ColourShift,
    Downsample,
    GaussianBlur,
    GaussianNoise,
    Gray,
    MixedBlur,
    MixedNoise,
    MotionBlur,
    Resize,
    SincJPEG,
    StepTransform,
    compose,
)

TRANSFORMS = [
    GaussianBlur(sigma=(0.1, 10)),
    MixedBlur(
        kernels={"iso": 0.5, "plateau_aniso": 0.5},
        sigma=(0.2, 3),
        ksizes=(7, 21),
        generalized_beta=(0.5, 4),
        plateau_beta=(1, 2),
        sinc_probability=0.3,
    ),
    MotionBlur(length=(3, 15)),
    Downsample(r=(0.8, 8)),
    Resize(up=0.2, down=0.7, scale=(0.15, 1.5)),
    GaussianNoise(sigma=(0, 20)),
    MixedNoise(gaussian_probability=0.5, sigma=(1, 30), scale=(0.05, 3), gray_probability=0.4),
    JPEG(quality=(30, 60)),
    SincJPEG(side=128, ksizes=(7, 21), sinc_probability=0.8, quality=(30, 95)),
    ColourShift(shift=20),
    ColourJitter(brightness=(0.5, 1.5), contrast=(0.5, 1.5), saturation=(0, 1.5), hue=(-0.1, 0.1)),
    Gray(),
]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_one_generator_drives_the_pipeline_as_it_drives_the_chain(face: Uint8Image, recipe: Recipe) -> None:
    pipeline = compose(recipe)
    for seed in range(6):
        pipeline.set_random_state(np.random.default_rng(seed), random.Random(0))
        # Floats between the steps, as in the chain.
        lq = to_uint8(pipeline(image=to_float(face))["image"])
        np.testing.assert_array_equal(lq, decode_image(degrade(face, recipe, np.random.default_rng(seed)).file))


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda transform: type(transform).__name__)
def test_uint8_and_float_agree(face: Uint8Image, transform: StepTransform) -> None:
    transform.set_random_seed(3)
    bytes_out = transform(image=face)["image"]
    transform.set_random_seed(3)
    float_out = transform(image=to_float(face))["image"]
    assert bytes_out.dtype == np.uint8 and float_out.dtype == np.float32
    assert bytes_out.shape == float_out.shape
    assert np.abs(bytes_out.astype(int) - to_uint8(float_out)).max() <= 1


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda transform: type(transform).__name__)
def test_a_transform_survives_serialization(face: Uint8Image, transform: StepTransform) -> None:
    again = A.from_dict(json.loads(json.dumps(A.to_dict(transform))))
    assert type(again) is type(transform) and again.step == transform.step
    for each in (transform, again):
        each.set_random_seed(8)
    np.testing.assert_array_equal(transform(image=face)["image"], again(image=face)["image"])


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_recipe_survives_serialization(face: Uint8Image, recipe: Recipe) -> None:
    pipeline = compose(recipe)
    again = A.from_dict(json.loads(json.dumps(A.to_dict(pipeline))))
    pipeline.set_random_seed(8)
    again.set_random_seed(8)
    np.testing.assert_array_equal(pipeline(image=face)["image"], again(image=face)["image"])
    steps = [transform.step.model_copy(update={"probability": transform.p}) for transform in again.transforms]
    assert steps == list(recipe.steps)


def test_a_pipeline_for_small_faces_blurs_less(face: Uint8Image) -> None:
    small = face[::4, ::4].copy()
    pipeline = compose(get_recipe("daefr-mild"), side=128)
    pipeline.set_random_state(np.random.default_rng(5), random.Random(0))
    expected = decode_image(degrade(small, get_recipe("daefr-mild"), np.random.default_rng(5)).file)
    np.testing.assert_array_equal(to_uint8(pipeline(image=to_float(small))["image"]), expected)


def test_probability_is_kept() -> None:
    assert A.from_dict(A.to_dict(JPEG(quality=(30, 60), p=0.25))).p == 0.25


def test_replay_applies_the_same_values(face: Uint8Image) -> None:
    pipeline = A.ReplayCompose(TRANSFORMS)
    first = pipeline(image=face)
    again = A.ReplayCompose.replay(first["replay"], image=face)
    np.testing.assert_array_equal(first["image"], again["image"])


def test_images_need_not_be_square(face: Uint8Image) -> None:
    assert Downsample(r=(4, 4))(image=face[:300])["image"].shape == (75, 128, 3)
