"""Closed, typed settings: the base class of every part of a configuration, and the names of the stages."""

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

StageName = Literal["hq_codebook", "lq_codebook", "association", "restoration"]
STAGES: tuple[StageName, ...] = get_args(StageName)


class Settings(BaseModel):
    """A closed set of typed, unchangeable settings: an unknown key or an impossible value is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)
