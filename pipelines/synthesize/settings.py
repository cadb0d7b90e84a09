"""Settings of the data set: which faces are used, and what training pairs are made of them."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from daefr.settings.base import LocalPath, Place, Settings
from daefr.settings.faces import FaceFilters
from daefr.settings.images import MAX_PIXELS, PIXEL_LIMIT
from degradations import RECIPES
from pipelines.storage.address import is_address, split_address

PORTRAITS = "portraits"


class DataConfig(Settings):
    """Which faces are used, and what training pairs are made of them."""

    faces: Place | list[Place] = Field(
        PORTRAITS,
        description="Source of the training faces: a folder or s3://bucket/prefix with aligned square crops, with "
        "photographs (see `align`), or with tar files of either; a list of these; or `portraits` for drawn faces.",
    )
    validation_faces: Place | list[Place] | None = Field(
        None,
        description="Source of the validation faces, in the same forms as `faces`, which it may equal. By default, "
        "`num_validation` faces are held out from `faces`.",
    )
    align: Literal["facexlib"] | None = Field(
        None,
        description="Set to `facexlib` if the files are photographs: every face in them is detected, aligned and "
        "cropped. By default, each file is used as one aligned crop.",
    )
    detector: LocalPath | None = Field(
        None, description="RetinaFace weights file for `align`. By default, facexlib's weights are downloaded."
    )
    filters: FaceFilters = Field(
        FaceFilters(), description="Thresholds that select which detected faces of photographs are used."
    )
    max_pixels: Annotated[int, Field(gt=0, le=PIXEL_LIMIT)] = Field(
        MAX_PIXELS, description="Images whose header declares more pixels are rejected without being decoded."
    )
    max_faces: PositiveInt | None = Field(
        None,
        description="Largest number of source files to use; the same subset is used in every run. By default, all "
        "files are used.",
    )
    num_portraits: PositiveInt = Field(
        512, description="Number of portraits to draw when `faces` is `portraits`, including those for validation."
    )
    num_validation: PositiveInt = Field(
        16, description="Number of faces held out from `faces` for validation when `validation_faces` is unset."
    )
    mild_recipe: str = Field(
        "daefr-mild",
        description="Degradation recipe of the mild LQ images, on which the LQ codebook and the association train.",
    )
    severe_recipe: str = Field(
        "daefr-severe",
        description="Degradation recipe of the severe LQ images, which the restoration learns to restore.",
    )
    lq_variants: PositiveInt = Field(
        2, description="Number of LQ images made per training face and recipe; training picks one of them per epoch."
    )
    refresh_every_n_epochs: PositiveInt | None = Field(
        None,
        description="Training switches to newly degraded LQ images after this many epochs; idle CPUs make them in the "
        "meantime. By default, the same LQ images are used throughout.",
    )
    shard_storage: str | None = Field(
        None,
        description="s3://bucket/prefix to which shards are uploaded. By default, shards are stored in the step's "
        "folder in `workdir`.",
    )
    samples_per_shard: PositiveInt = Field(
        1000, description="Number of samples per shard; each shard is made by one task, and lost tasks are repeated."
    )
    max_rejected_fraction: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1, description="Fraction of the source files, from 0 to 1, that may yield no sample before the step fails."
    )

    @model_validator(mode="after")
    def _addresses_are_complete(self) -> Self:
        for location in [
            *self.locations("faces"),
            *self.locations("validation_faces"),
            *self.locations("shard_storage"),
        ]:
            if is_address(location):
                split_address(location)
        if self.shard_storage is not None and not is_address(self.shard_storage):
            raise ValueError(
                "data.shard_storage must be s3://bucket/prefix; leave it unset to store shards in the step's folder"
            )
        return self

    def locations(self, key: str) -> list[str]:
        """Return the locations that a key gives; an empty list if it is unset."""
        value: str | list[str] | None = getattr(self, key)
        return [] if value is None else [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _recipes_exist(self) -> Self:
        for name in (self.mild_recipe, self.severe_recipe):
            if name not in RECIPES:
                raise ValueError(f"unknown recipe {name!r}; choose one of {', '.join(RECIPES)}")
        return self
