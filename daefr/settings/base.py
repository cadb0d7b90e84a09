"""Closed, typed settings: the base class of every part of a configuration, and the names of the stages."""

import os
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict

from daefr.files import expand_home

StageName = Literal["hq_codebook", "lq_codebook", "association", "restoration"]
STAGES: tuple[StageName, ...] = get_args(StageName)

LocalPath = Annotated[Path, AfterValidator(expand_home)]
"""A path on this machine, where `~` is the home directory."""
Place = Annotated[str, AfterValidator(os.path.expanduser)]
"""A path on this machine, likewise, or an address such as `s3://bucket/prefix`."""


class Settings(BaseModel):
    """A closed set of typed, unchangeable settings: an unknown key or an impossible value is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)
