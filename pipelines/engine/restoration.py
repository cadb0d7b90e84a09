"""Settings that the restoration job and the service share: which model restores, and with which other weights."""

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field

from daefr.settings.base import Settings
from pipelines.storage.paths import absolute


class RestorationSettings(Settings):
    """How images are restored, by the job and by the service."""

    model: str = Field(
        "models:/daefr-restoration@champion",
        description="models:/NAME@ALIAS, models:/NAME/NUMBER, a checkpoint directory or a released .ckpt file.",
    )
    aligned: bool = Field(False, description="All images are aligned crops, none photographs.")
    only_center_face: bool = Field(False, description="Of a photograph, the face nearest to its middle only.")
    detector: Path | None = Field(None, description="RetinaFace weights; by default the usual download of facexlib's.")
    parser: Path | None = Field(None, description="ParseNet weights, for tighter masks.")
    upscale: Literal[1, 2, 4] = Field(1, description="How many times as large photographs become.")
    upscaler: Path | None = Field(
        None, description="A model file for that, as spandrel reads them; by default pixels are resampled."
    )


AnyRestoration = TypeVar("AnyRestoration", bound=RestorationSettings)


def located(settings: AnyRestoration) -> AnyRestoration:
    """Return the settings with absolute paths of weights: workers have other working directories."""
    given = {name: getattr(settings, name) for name in ("detector", "parser", "upscaler")}
    return settings.model_copy(update={name: absolute(path) for name, path in given.items() if path is not None})
