"""Builds stages with new weights, and initializes them from upstream stages or from a checkpoint of the same stage."""

from collections.abc import Mapping
from typing import get_args

import torch
from torch import Tensor

from daefr.checkpoint import Checkpoint
from daefr.errors import UserError
from daefr.settings.base import StageName
from daefr.settings.network import NetworkConfig
from daefr.settings.training import (
    AdversarialConfig,
    AutoencoderTraining,
    PerceptualConfig,
    RestorationTraining,
    TrainingConfig,
)
from daefr.stages.autoencoder import Autoencoders, AutoencoderStage
from daefr.stages.base import Stage
from daefr.stages.components import match_components
from daefr.stages.restoration import RestorationStage

STAGES: tuple[StageName, ...] = get_args(StageName)

UPSTREAM: dict[StageName, tuple[StageName, ...]] = {
    "hq_codebook": (),
    "lq_codebook": (),
    "association": ("hq_codebook", "lq_codebook"),
    "restoration": ("hq_codebook", "association"),
}
"""The stages that each stage is initialized from."""


def build_stage(name: StageName, network: NetworkConfig, training: TrainingConfig, seed: int = 0) -> Stage:
    """Build a stage with random weights from `seed`, without changing the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(training, RestorationTraining):
            return RestorationStage(network, training)
        if isinstance(training, AutoencoderTraining):
            return AutoencoderStage(name, network, training)
    raise TypeError(f"{name} cannot be trained with {type(training).__name__}")


def init_from_upstream(stage: Stage, upstream: Mapping[StageName, Checkpoint]) -> None:
    """Initialize a new stage with the weights of its upstream stages.

    The association gets both codebooks with their discriminators, including those of facial components if both stages
    have them (see `match_components`). The restoration gets the frozen modules from the HQ codebook and the encoders
    from the association. Raises `UserError` if a checkpoint is of another stage or network.
    """
    for name in UPSTREAM[stage.name]:
        if upstream[name].stage != name:
            raise UserError(
                f"{stage.name} requires a checkpoint of {name}, but {upstream[name].path} is of {upstream[name].stage}"
            )
        _check_autoencoder(stage, upstream[name])
    if isinstance(stage, RestorationStage):
        codebook = _autoencoders(upstream["hq_codebook"])
        association = _autoencoders(upstream["association"])
        stage.load_upstream(codebook.branch("hq"), association.branch("hq"), association.branch("lq"))
    elif UPSTREAM[stage.name]:
        _fill(
            stage,
            upstream["hq_codebook"].tensors() | upstream["lq_codebook"].tensors(),
            " and ".join(str(checkpoint.path) for checkpoint in upstream.values()),
        )


def init_from_checkpoint(stage: Stage, checkpoint: Checkpoint) -> None:
    """Initialize a new stage with the weights of a checkpoint of the same stage.

    Raises `UserError` if the checkpoint is of another stage or network.
    """
    if checkpoint.stage != stage.name:
        raise UserError(f"{stage.name} cannot start from {checkpoint.path}, a checkpoint of {checkpoint.stage}")
    _check_autoencoder(stage, checkpoint)
    _fill(stage, checkpoint.tensors(), str(checkpoint.path))


def stage_from_checkpoint(checkpoint: Checkpoint, training: TrainingConfig | None = None) -> Stage:
    """Build the stage of a checkpoint, by default for evaluation, without perceptual and adversarial losses."""
    stage = build_stage(checkpoint.stage, checkpoint.network, training or _for_evaluation(checkpoint.stage))
    _fill(stage, checkpoint.tensors(), str(checkpoint.path))
    return stage.eval()


def _fill(stage: Stage, tensors: dict[str, Tensor], source: str) -> None:
    stage.load_weights(match_components(tensors, stage.weights()), source)


def _for_evaluation(name: StageName) -> TrainingConfig:
    if name == "restoration":
        return RestorationTraining(steps=1)
    off = {"perceptual": PerceptualConfig(weight=0), "adversarial": AdversarialConfig(weight=0)}
    return AutoencoderTraining.model_validate({"steps": 1, **off})


def _autoencoders(checkpoint: Checkpoint) -> Autoencoders:
    stage = stage_from_checkpoint(checkpoint)
    if not isinstance(stage, AutoencoderStage):
        raise UserError(f"{checkpoint.path} is of {checkpoint.stage}, which has no autoencoders")
    return stage.generator


def _check_autoencoder(stage: Stage, checkpoint: Checkpoint) -> None:
    if checkpoint.network.autoencoder != stage.network.autoencoder:
        raise UserError(
            f"{stage.name} cannot start from {checkpoint.path}: its autoencoder has "
            f"{_difference(checkpoint.network, stage.network)}"
        )


def _difference(theirs: NetworkConfig, ours: NetworkConfig) -> str:
    mine = ours.autoencoder.model_dump()
    return ", ".join(
        f"{name}={value} instead of {mine[name]}"
        for name, value in theirs.autoencoder.model_dump().items()
        if value != mine[name]
    )
