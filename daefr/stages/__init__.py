"""The four training stages of DAEFR: their networks, inputs, losses and initial weights.

PyTorch is imported when an attribute is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daefr.stages.autoencoder import AutoencoderStage
    from daefr.stages.base import Loss, Stage
    from daefr.stages.build import (
        STAGES,
        UPSTREAM,
        build_stage,
        init_from_checkpoint,
        init_from_upstream,
        stage_from_checkpoint,
    )
    from daefr.stages.restoration import RestorationStage

__all__ = [
    "STAGES",
    "UPSTREAM",
    "AutoencoderStage",
    "Loss",
    "RestorationStage",
    "Stage",
    "build_stage",
    "init_from_checkpoint",
    "init_from_upstream",
    "stage_from_checkpoint",
]
_MODULES = {"AutoencoderStage": "autoencoder", "Loss": "base", "RestorationStage": "restoration", "Stage": "base"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'build')}"), name)
