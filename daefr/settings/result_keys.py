"""Which settings of a training change the weights that it ends with, beyond rounding; the others only change the way.

Everything that compares two trainings goes by these lists: the fingerprint of a stage, and whether a training can be
resumed with other settings.
"""

from collections.abc import Mapping
from typing import Any

from daefr.settings.training import TrainingConfig

CHANGE_RESULT = frozenset(
    {
        "steps",
        "global_batch_size",
        "gradient_accumulation_steps",
        "base_learning_rate",
        "warmup_steps",
        "lr_scheduler",
        "milestones",
        "gamma",
        "min_lr_ratio",
        "max_grad_norm",
        "ema_decay",
        "horizontal_flip",
        "betas",
        "speed.autocast",
        "speed.allow_tf32",
        "adversarial.weight",
        "adversarial.start_step",
        "adversarial.sync_batchnorm",
        "perceptual.weight",
        "components.weight",
        "components.style_weight",
        "components.eye_crop_size",
        "components.mouth_crop_size",
        "identity.weight",
        "codebook.kmeans_init",
        "codebook.reset_every_n_steps",
        "codebook.reset_until_step",
        "gather_across_ranks",
        "feature_weight",
    }
)
CHANGE_BY_CONTENT = frozenset({"initial_checkpoint", "perceptual.vgg16", "identity.arcface"})
"""Files, which are compared by their digests instead."""
CHANGE_NOTHING = frozenset(
    {
        "epochs",  # once it is converted to steps
        "log_every_n_steps",
        "validate_every_n_steps",
        "checkpoint_every_n_steps",
        "checkpoint_every_n_minutes",
        "speed.channels_last",
        "speed.compile",
        "speed.retain_freed_memory",
        "speed.cudnn_benchmark",
        "speed.group_norm",
        "speed.upsample",
        "speed.activation_checkpointing",
    }
)


def result_settings(training: TrainingConfig) -> dict[str, Any]:
    """Return the settings that change the result, as JSON values by dotted key; `training` has its length in steps."""
    flat = flatten_settings(training.model_dump(mode="json"))
    return {key: value for key, value in flat.items() if key in CHANGE_RESULT}


def settings_beside_length(training: TrainingConfig) -> dict[str, Any]:
    """Return the settings that change what the training is at each of its steps, whatever its length."""
    settings = result_settings(training)
    if not depends_on_length(training):
        del settings["steps"]
    return settings


def depends_on_length(training: TrainingConfig) -> bool:
    """Tell whether a step's result depends on how many steps follow, so that a training cannot be prolonged exactly."""
    return training.lr_scheduler == "cosine"


def flatten_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted key, such as `speed.compile`."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        nested = isinstance(value, Mapping) and value
        flat |= flatten_settings(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat
