"""Where HQ faces come from: a folder of aligned crops, or the built-in portraits."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daefr.data.images import MAX_PIXELS, Image, decode_image, find_images, shrink
from daefr.data.manifest import Split
from daefr.data.portraits import draw_portrait
from daefr.errors import UserError
from pipelines.config import PORTRAITS, DataConfig, digest


class RejectedError(Exception):
    """A source that cannot become a sample; the text says why."""


@dataclass(frozen=True)
class Face:
    """An aligned HQ crop: (R, R, 3) uint8 RGB, five (x, y) landmarks in pixels where known, digest of its source.

    `crop` tells how it was cut out of a photograph, None where it came as it is; see `daefr.faces.Crop.facts`.
    """

    image: Image
    landmarks: list[list[float]] | None
    sha256: str
    crop: dict[str, Any] | None = None


@dataclass(frozen=True)
class Source:
    """One face to be read: a file of a folder, or the number of a portrait."""

    name: str
    path: Path | None = None
    portrait: int = 0

    def load(self, resolution: int, max_pixels: int = MAX_PIXELS) -> Face:
        """Read an aligned crop at `resolution` pixels. Raises `RejectedError` when it cannot be used."""
        if self.path is None:
            portrait = draw_portrait(self.portrait, resolution)
            sha256 = hashlib.sha256(portrait.image.tobytes()).hexdigest()
            return Face(portrait.image, portrait.landmarks.tolist(), sha256)
        data = self.read()
        try:
            image = decode_image(data, max_pixels)
        except ValueError as error:
            raise RejectedError(str(error)) from None
        height, width = image.shape[:2]
        if height != width:
            raise RejectedError(f"not square: {width}x{height} pixels, where an aligned crop is wanted")
        if height < resolution:
            raise RejectedError(f"too small: {height} pixels, where {resolution} are wanted")
        return Face(shrink(image, resolution), None, hashlib.sha256(data).hexdigest())

    def read(self) -> bytes:
        """Return the file of a source that is no portrait. Raises `RejectedError` when it cannot be read."""
        assert self.path is not None  # noqa: S101  # a portrait has no file
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise RejectedError(f"cannot be read: {error.strerror}") from None


def list_sources(data: DataConfig) -> dict[Split, list[Source]]:
    """Return the sources of both splits, in a fixed order. Raises `UserError` for folders that are missing or empty."""
    sources = _list(data, data.faces, "data.faces")
    if data.validation_faces is not None:
        return {"train": sources, "validation": _list(data, data.validation_faces, "data.validation_faces")}
    if len(sources) <= data.validation:
        raise UserError(
            f"data.validation={data.validation} sets apart all of the {len(sources)} faces of data.faces={data.faces}: "
            "give more faces, set fewer apart, or give data.validation_faces"
        )
    apart = set(_by_hash(sources)[: data.validation])
    return {
        "train": [source for source in sources if source not in apart],
        "validation": [source for source in sources if source in apart],
    }


def _list(data: DataConfig, place: str, key: str) -> list[Source]:
    sources = _portraits(data.portraits) if place == PORTRAITS else _folder(Path(place), key)
    chosen = set(_by_hash(sources)[: data.limit])
    return [source for source in sources if source in chosen]


def _by_hash(sources: list[Source]) -> list[Source]:
    """Order sources at random, but so that a face keeps its side of a cut when others are added."""
    return sorted(sources, key=lambda source: hashlib.sha256(source.name.encode()).digest())


def sources_digest(sources: dict[Split, list[Source]]) -> str:
    """Return a digest that changes when a source is added, removed or altered (by name, size and time of change)."""
    return digest({split: [_identity(source) for source in part] for split, part in sources.items()})


def _identity(source: Source) -> list[object]:
    if source.path is None:
        return [source.name]
    status = source.path.stat()
    return [source.name, status.st_size, status.st_mtime_ns]


def _portraits(count: int) -> list[Source]:
    return [Source(f"portrait-{number:06d}", portrait=number) for number in range(count)]


def _folder(folder: Path, key: str) -> list[Source]:
    if not folder.is_dir():
        raise UserError(f"{key}={folder} is not a folder; give a folder of aligned face crops, or {PORTRAITS!r}")
    sources = [Source(path.relative_to(folder).as_posix(), path.resolve()) for path in find_images(folder)]
    if not sources:
        raise UserError(f"{key}={folder} is empty; give a folder of aligned face crops (jpg, png, webp)")
    return sources
