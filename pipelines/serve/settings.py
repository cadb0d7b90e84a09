"""Settings of the service and of its replicas."""

from typing import Annotated, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from daefr.settings.base import LocalPath, Settings
from daefr.settings.images import PIXEL_LIMIT


class ServeConfig(Settings):
    """The address and limits of the service."""

    host: str = Field(
        "127.0.0.1", description="Address to listen on; any address other than loopback requires `token`."
    )
    port: Annotated[int, Field(ge=1, le=65535)] = Field(8000, description="TCP port to listen on.")
    token: LocalPath | None = Field(
        None, description="File with the bearer token that requests must carry. By default, no token is required."
    )
    max_upload_bytes: PositiveInt = Field(
        20_000_000, description="Largest size of an upload, in bytes; larger uploads are rejected with status 413."
    )
    max_pixels: Annotated[int, Field(gt=0, le=PIXEL_LIMIT)] = Field(
        25_000_000, description="Images whose header declares more pixels are rejected without being decoded."
    )
    upload_timeout_s: PositiveFloat = Field(
        30, description="Seconds that an upload may take before it is rejected with status 408."
    )
    max_queued_requests: PositiveInt = Field(
        256,
        description="Largest number of images held at a time, per replica; further requests are rejected with status "
        "503.",
    )
    max_queued_bytes: PositiveInt = Field(
        500_000_000,
        description="Largest total size of the images held at a time, in bytes per replica; further requests are "
        "rejected with status 503.",
    )
    max_inflight_pixels: PositiveInt = Field(
        100_000_000,
        description="Largest total number of pixels processed at a time, per replica; further images wait in the "
        "queue.",
    )
    max_batch_size: PositiveInt = Field(
        8, description="Largest number of faces, of one or several requests, that are restored in one batch."
    )
    batch_wait_timeout_s: Annotated[float, Field(ge=0)] = Field(
        0.02, description="Seconds that a face waits for others to fill a batch."
    )
    poll_interval_s: PositiveFloat = Field(
        10, description="Seconds between two queries of the model registry for a new version of the model's alias."
    )

    @model_validator(mode="after")
    def _limits_admit_one_image(self) -> Self:
        if self.max_pixels > self.max_inflight_pixels:
            raise ValueError(f"max_pixels={self.max_pixels} exceeds max_inflight_pixels={self.max_inflight_pixels}")
        if self.max_upload_bytes > self.max_queued_bytes:
            raise ValueError(
                f"max_upload_bytes={self.max_upload_bytes} exceeds max_queued_bytes={self.max_queued_bytes}"
            )
        return self


class ServeCompute(Settings):
    """The resources of the service."""

    num_replicas: PositiveInt = Field(1, description="Number of Ray Serve replicas, each with the model loaded.")
    cpus_per_replica: PositiveFloat = Field(1, description="Number of CPUs reserved per replica.")
    use_gpu: bool = Field(False, description="Whether each replica reserves and computes on one GPU.")
