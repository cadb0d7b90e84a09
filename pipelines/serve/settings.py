"""Settings of the service and of its replicas."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from daefr.settings.base import Settings
from daefr.settings.images import PIXEL_LIMIT


class ServeConfig(Settings):
    """What the service accepts, and how it follows its model."""

    host: str = Field("127.0.0.1", description="Address to listen at; any but a loopback address needs `token`.")
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    token: Path | None = Field(None, description="A file with the token that requests must show.")
    max_bytes: PositiveInt = Field(20_000_000, description="What an upload may have.")
    max_pixels: Annotated[int, Field(gt=0, le=PIXEL_LIMIT)] = Field(
        25_000_000, description="What an image may say that it has."
    )
    upload_seconds: PositiveFloat = Field(30, description="How long an upload may take.")
    waiting: PositiveInt = Field(
        256, description="Images that are at hand together, per replica; beyond, the answer is 503."
    )
    waiting_bytes: PositiveInt = Field(500_000_000, description="What these may have together; beyond, likewise.")
    working_pixels: PositiveInt = Field(
        100_000_000, description="Images that are worked at together, per replica; others wait."
    )
    batch: PositiveInt = Field(8, description="Faces, of one or several requests, that are restored together.")
    batch_wait: Annotated[float, Field(ge=0)] = Field(0.02, description="Seconds that a face waits for others.")
    poll_seconds: PositiveFloat = Field(10, description="How often the registry is asked for the alias.")

    @model_validator(mode="after")
    def _one_image_has_room(self) -> Self:
        if self.max_pixels > self.working_pixels:
            raise ValueError(f"max_pixels={self.max_pixels} is more than working_pixels={self.working_pixels}")
        if self.max_bytes > self.waiting_bytes:
            raise ValueError(f"max_bytes={self.max_bytes} is more than waiting_bytes={self.waiting_bytes}")
        return self


class ServeCompute(Settings):
    """What the service runs on."""

    replicas: PositiveInt = 1
    cpus: PositiveFloat = Field(1, description="CPUs of each replica.")
    gpu: bool = Field(False, description="One GPU for each replica.")
