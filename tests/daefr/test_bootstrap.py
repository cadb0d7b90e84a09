"""The paired bootstrap: what it finds, what it leaves out, and that it finds it again."""

import math

import numpy as np
import pytest

from daefr.errors import UserError
from daefr.metrics.bootstrap import mean_difference


def test_the_interval_holds_the_true_difference_about_as_often_as_it_says() -> None:
    held = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        hard = rng.normal(0, 5, 60)  # what both models share
        found = mean_difference(hard + 0.3 + rng.normal(0, 1, 60), hard, confidence=0.9, resamples=500, seed=seed)
        held += found.low <= 0.3 <= found.high
    assert 0.8 < held / 200 < 0.97


def test_what_makes_an_image_hard_for_both_does_not_widen_the_interval() -> None:
    hard = np.random.default_rng(0).normal(0, 100, 50)
    found = mean_difference(hard + 1, hard)
    assert (found.low, found.difference, found.high) == pytest.approx((1, 1, 1))


def test_equal_arguments_give_equal_intervals_and_another_seed_about_the_same() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(0, 1, (2, 300))
    assert mean_difference(one, other, seed=1) == mean_difference(one, other, seed=1)
    again = mean_difference(one, other, seed=2)
    assert again.low == pytest.approx(mean_difference(one, other, seed=1).low, abs=0.02)


def test_images_without_both_figures_are_left_out() -> None:
    found = mean_difference([1.0, 5, math.nan, math.inf, 4], [0.0, 4, 1, math.inf, math.nan])
    assert (found.difference, found.low, found.high, found.images) == (1, 1, 1, 2)


def test_one_image_says_nothing_of_others() -> None:
    found = mean_difference([2.0], [1.0])
    assert (found.difference, found.low, found.high) == (1, -math.inf, math.inf)


def test_no_image_is_an_error() -> None:
    with pytest.raises(UserError, match="no image of which both have the figure"):
        mean_difference([math.nan], [1.0])
