"""Settings of the data set: which faces, and what is made of them."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from daefr.settings.base import Settings
from daefr.settings.faces import FaceFilters
from daefr.settings.images import MAX_PIXELS, PIXEL_LIMIT
from degradations import RECIPES
from pipelines.storage.address import is_address, split_address

PORTRAITS = "portraits"


class DataConfig(Settings):
    """Which faces, and what is made of them."""

    faces: str | list[str] = Field(
        PORTRAITS,
        description="A folder or s3://bucket/prefix of aligned square crops, of photographs (see `align`), or of tar "
        "files with such; a list of these; or `portraits` for drawn ones.",
    )
    validation_faces: str | list[str] | None = Field(
        None,
        description="Likewise, for validation; may be the same as `faces`. By default a part of `faces` is set apart.",
    )
    align: Literal["facexlib"] | None = Field(
        None, description="`facexlib` where the files are raw photographs, to make crops of every face in them."
    )
    detector: Path | None = Field(
        None, description="RetinaFace weights for `align`; by default the usual download of facexlib's."
    )
    filters: FaceFilters = Field(FaceFilters(), description="Which faces of photographs are taken.")
    max_pixels: Annotated[int, Field(gt=0, le=PIXEL_LIMIT)] = Field(
        MAX_PIXELS, description="An image that says that it has more is not decoded."
    )
    limit: PositiveInt | None = Field(None, description="Use that many of the faces only, the same ones in every run.")
    portraits: PositiveInt = Field(512, description="How many portraits are drawn, validation included.")
    validation: PositiveInt = Field(16, description="How many of `faces` are set apart without `validation_faces`.")
    mild: str = "daefr-mild"
    severe: str = "daefr-severe"
    variants: PositiveInt = Field(2, description="LQ images of each recipe for every training face.")
    refresh: PositiveInt | None = Field(
        None,
        description="Epochs after which training goes on with new LQ images of every face, which idle CPUs make "
        "meanwhile; by default it keeps the first.",
    )
    store: str | None = Field(
        None, description="s3://bucket/prefix for the shards; by default they are beside their manifest."
    )
    shard_samples: PositiveInt = Field(1000, description="Samples in one shard; one task makes one shard.")
    max_rejected: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1, description="Share of the files that may give no sample."
    )

    @model_validator(mode="after")
    def _addresses_are_complete(self) -> Self:
        for place in [*self.places("faces"), *self.places("validation_faces"), *self.places("store")]:
            if is_address(place):
                split_address(place)
        if self.store is not None and not is_address(self.store):
            raise ValueError("data.store is s3://bucket/prefix; without it, the shards go into the step's folder")
        return self

    def places(self, key: str) -> list[str]:
        """Return the place or places that a key gives, none where it is not set."""
        value: str | list[str] | None = getattr(self, key)
        return [] if value is None else [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _recipes_exist(self) -> Self:
        for name in (self.mild, self.severe):
            if name not in RECIPES:
                raise ValueError(f"there is no recipe {name!r}; there are {', '.join(RECIPES)}")
        return self
