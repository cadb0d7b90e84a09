"""Settings of restoration, by the job and by the service, and of the job's workers."""

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from daefr.outputs import OnConflict
from daefr.settings.base import Settings
from daefr.settings.images import MAX_PIXELS, PIXEL_LIMIT
from pipelines.engine.restoration import RestorationSettings


class RestoreConfig(RestorationSettings):
    """How images are restored; the service uses what it shares with the job."""

    suffix: str = Field(
        "", pattern=r"^[\w.+-]*$", description="Of the job: goes between a result's name and its `.png`."
    )
    side_by_side: bool = Field(False, description="Of the job: write before and after beside each other.")
    max_pixels: Annotated[int, Field(gt=0, le=PIXEL_LIMIT)] = Field(
        MAX_PIXELS, description="Of the job: an image that says that it has more is not decoded."
    )
    shard_samples: PositiveInt | None = Field(
        None, description="Of the job: write tar shards of that many restored images, instead of a file for each."
    )
    on_conflict: OnConflict = Field(
        "stop",
        description="Where a file that the job did not write has the name of a result: `stop` fails that image, "
        "`rename` numbers the result.",
    )
    max_failed: Annotated[float, Field(ge=0, le=1)] = Field(
        0, description="Of the job: share of the images that may fail before its exit code says so."
    )


class RestoreCompute(Settings):
    """What images are restored on, by a pool of workers that grows while there is work for more."""

    min_workers: PositiveInt = 1
    max_workers: PositiveInt | None = Field(None, description="By default as many as the cluster has room for.")
    cpus: PositiveFloat = Field(1, description="CPUs of each worker.")
    gpu: bool = Field(False, description="One GPU for each worker.")
    images: PositiveInt = Field(8, description="Images that a worker is given at a time.")
