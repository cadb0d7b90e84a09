"""Every setting of a training is known to change its result, or not to."""

import pytest

from daefr.settings.result_keys import (
    CHANGE_BY_CONTENT,
    CHANGE_NOTHING,
    CHANGE_RESULT,
    flatten_settings,
    result_settings,
    settings_beside_length,
)
from daefr.settings.training import AssociationTraining, AutoencoderTraining, RestorationTraining, TrainingConfig

TRAININGS = (AutoencoderTraining, AssociationTraining, RestorationTraining)


def test_every_key_is_on_one_of_the_lists() -> None:
    keys = {key for kind in TRAININGS for key in flatten_settings(kind(steps=1).model_dump(mode="json"))}
    lists = (CHANGE_RESULT, CHANGE_BY_CONTENT, CHANGE_NOTHING)
    assert keys == set().union(*lists)
    assert sum(map(len, lists)) == len(keys), "no key is on two of them"


@pytest.mark.parametrize(
    "changes",
    [
        {"log_every_n_steps": 3},
        {"validate_every_n_steps": 3},
        {"checkpoint_every_n_minutes": 3},
        {"speed": {"compile": True, "channels_last": True}},
        {"initial_checkpoint": "elsewhere"},
        {"perceptual": {"vgg16": "elsewhere"}},
    ],
)
def test_what_changes_only_the_way_is_left_out(changes: dict[str, object]) -> None:
    changed = AutoencoderTraining.model_validate({"steps": 9, **changes})
    assert result_settings(changed) == result_settings(AutoencoderTraining(steps=9))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (AutoencoderTraining, {"steps": 10}),
        (AutoencoderTraining, {"adversarial": {"weight": 0.5}}),
        (AutoencoderTraining, {"speed": {"autocast": "bfloat16"}}),
        (AssociationTraining, {"gather_across_ranks": False}),
        (RestorationTraining, {"feature_weight": 1}),
    ],
)
def test_what_changes_the_result_is_kept(kind: type[TrainingConfig], changes: dict[str, object]) -> None:
    changed = kind.model_validate({"steps": 9, **changes})
    assert result_settings(changed) != result_settings(kind(steps=9))


def test_trainings_of_different_lengths_are_the_same_until_the_shorter_ends_unless_the_schedule_depends_on_it() -> None:
    short, long = RestorationTraining(steps=9), RestorationTraining(steps=12)
    assert settings_beside_length(short) == settings_beside_length(long)
    short, long = (each.model_copy(update={"lr_scheduler": "cosine"}) for each in (short, long))
    assert settings_beside_length(short) != settings_beside_length(long)
