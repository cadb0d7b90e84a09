"""What `data.align` makes of a source: every face of a photograph, where a source is else one aligned crop."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from daefr.device import choose_device
from daefr.faces.rejection import Rejection
from daefr.settings.faces import FaceFilters
from pipelines.synthesize.sources import RejectedError, Source, SourceFace

if TYPE_CHECKING:
    from daefr.faces.crops import Aligner


@dataclass(frozen=True)
class Photographs:
    """How faces are taken out of photographs: the weights of the detector, None for facexlib's, and the filters."""

    detector: Path | None
    filters: FaceFilters


def take_faces(
    source: Source, photographs: Photographs | None, resolution: int, max_pixels: int
) -> tuple[dict[str, SourceFace], list[Rejection]]:
    """Return the faces of a source by name, and what of it was rejected.

    Without `photographs`, and for a portrait, the source is an aligned crop and its name the face's.
    """
    try:
        if photographs is None or source.path is None:
            return {source.name: source.load(resolution, max_pixels)}, []
        data = source.read()
        found = _aligner(photographs, resolution, max_pixels)(data, source.name)
    except (RejectedError, ValueError) as error:
        return {}, [Rejection(source=source.name, reason=str(error))]
    sha256 = hashlib.sha256(data).hexdigest()
    faces = {
        name: SourceFace(crop.image, crop.landmarks.tolist(), sha256, crop.facts) for name, crop in found.crops.items()
    }
    return faces, found.rejected


@cache
def _aligner(photographs: Photographs, resolution: int, max_pixels: int) -> "Aligner":
    """Load the detector, once a worker process: Ray runs task after task in the same ones.

    A process with a share of a GPU is the exception: Ray ends it with its task, which gives the GPU's memory back.
    """
    import torch  # noqa: PLC0415  # it takes seconds and 500 MB, which only the tasks need

    from daefr.faces.crops import Aligner  # noqa: PLC0415
    from daefr.faces.detector import Detector  # noqa: PLC0415

    torch.set_num_threads(1)  # a task has one CPU
    detector = Detector.load(photographs.detector, choose_device(), photographs.filters.smallest_face(resolution))
    return Aligner(detector, photographs.filters, resolution, max_pixels)
