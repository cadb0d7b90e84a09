"""Settings of restoration, by the job and by the service, and of the job's workers."""

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from daefr.outputs import OnConflict
from daefr.settings.base import Settings
from daefr.settings.images import MAX_PIXELS, PIXEL_LIMIT, Pages
from daefr.settings.restore import Format, Metadata
from pipelines.engine.restoration import RestorationSettings


class RestoreConfig(RestorationSettings):
    """How images are restored; the service uses what it shares with the batch job."""

    format: Format = Field(
        "png",
        description="Batch job only: file type of the results. `jpg` and `webp` are lossy; `same` is the type that "
        "the name of each image says, and `png` where that is none of these.",
    )
    metadata: Metadata = Field(
        "none",
        description="Batch job only: EXIF, XMP and resolution that results take over: none of it, `basic` (without "
        "GPS position and maker notes) or `all`.",
    )
    suffix: str = Field(
        "",
        pattern=r"^[\w.+-]*$",
        description="Batch job only: text inserted before the extension of each result, such as `.png`.",
    )
    side_by_side: bool = Field(
        False, description="Batch job only: whether results show the input beside the restored image."
    )
    pages: Pages = Field(
        "first",
        description="Batch job only: of several pages or frames, whether the `first` is restored or `all`, which "
        "takes the format `tiff`.",
    )
    max_pixels: Annotated[int, Field(gt=0, le=PIXEL_LIMIT)] = Field(
        MAX_PIXELS,
        description="Batch job only: images whose header declares more pixels fail without being decoded.",
    )
    samples_per_shard: PositiveInt | None = Field(
        None,
        description="Batch job only: number of restored images per tar shard. By default, each result is a file of its "
        "own.",
    )
    on_conflict: OnConflict = Field(
        "stop",
        description="Batch job only: what to do where a file that the job did not write has the name of a result: "
        "`stop` fails that image, `rename` numbers the result.",
    )
    max_failed_fraction: Annotated[float, Field(ge=0, le=1)] = Field(
        0, description="Batch job only: fraction of the images, from 0 to 1, that may fail before the exit code is 1."
    )


class RestoreCompute(Settings):
    """The resources of the batch job: a pool of workers that grows with the work."""

    min_workers: PositiveInt = Field(1, description="Smallest number of workers in the pool.")
    max_workers: PositiveInt | None = Field(
        None, description="Largest number of workers in the pool. By default, as many as the cluster has room for."
    )
    cpus_per_worker: PositiveFloat = Field(1, description="Number of CPUs reserved per worker.")
    use_gpu: bool = Field(False, description="Whether each worker reserves and computes on one GPU.")
    batch_size: PositiveInt = Field(
        8, description="Number of images that a worker receives at a time; larger batches need more memory."
    )
