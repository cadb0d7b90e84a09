"""Settings that the restoration job and the service share."""

from typing import Literal, TypeVar

from pydantic import Field, PositiveInt

from daefr.settings.base import LocalPath, Place, Settings
from daefr.settings.faces import MIN_FACE
from pipelines.storage.paths import absolute


class RestorationSettings(Settings):
    """How images are restored, by the batch job and by the service."""

    model: Place = Field(
        "models:/daefr-restoration@champion",
        description="The restoration model: models:/NAME@ALIAS, models:/NAME/VERSION, a checkpoint directory or a "
        "released .ckpt file.",
    )
    aligned: bool = Field(
        False, description="Whether all images are aligned face crops; otherwise faces are detected in photographs."
    )
    only_center_face: bool = Field(
        False, description="Whether only the face nearest to the center of each photograph is restored."
    )
    min_face: PositiveInt = Field(
        MIN_FACE,
        description="Smallest face that is looked for, by the longer side of its box in pixels of the photograph; the "
        "larger, the faster.",
    )
    detector: LocalPath | None = Field(
        None, description="RetinaFace weights file. By default, facexlib's weights are downloaded."
    )
    parser: LocalPath | None = Field(
        None,
        description="ParseNet weights file, for masks that follow face and hair. By default, the copy in torch's cache "
        "is used if there is one, otherwise simpler masks.",
    )
    upscale: Literal[1, 2, 4] = Field(1, description="Factor by which photographs are enlarged; 1 keeps their size.")
    upscaler: LocalPath | None = Field(
        None,
        description="Model file, in a format that spandrel reads, which enlarges the background for `upscale`. By "
        "default, the background is resampled.",
    )


AnyRestoration = TypeVar("AnyRestoration", bound=RestorationSettings)


def located(settings: AnyRestoration) -> AnyRestoration:
    """Return the settings with absolute paths, because workers have other working directories."""
    given = {name: getattr(settings, name) for name in ("detector", "parser", "upscaler")}
    return settings.model_copy(update={name: absolute(path) for name, path in given.items() if path is not None})
