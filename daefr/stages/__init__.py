"""The four training stages of DAEFR: what each trains, from which images, towards which loss, and from what start."""

from daefr.stages.autoencoder import AutoencoderStage
from daefr.stages.base import Loss, Stage
from daefr.stages.build import STAGES, UPSTREAM, build_stage, continue_from, stage_from_checkpoint, start_from
from daefr.stages.restoration import RestorationStage

__all__ = [
    "STAGES",
    "UPSTREAM",
    "AutoencoderStage",
    "Loss",
    "RestorationStage",
    "Stage",
    "build_stage",
    "continue_from",
    "stage_from_checkpoint",
    "start_from",
]
