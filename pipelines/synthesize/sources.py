"""Where HQ faces come from: folders, tar files or S3 prefixes of aligned crops, or the built-in portraits."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from daefr.data.manifest import Split
from daefr.errors import UserError
from daefr.images import Image, shrink
from daefr.listing import PassedOver
from daefr.photographs import ImageError, read_srgb
from daefr.portraits import draw_portrait
from daefr.settings.images import MAX_PIXELS
from pipelines.engine.digest import digest
from pipelines.storage.files import list_files, read_file
from pipelines.storage.listing import ListingDigest
from pipelines.synthesize.settings import PORTRAITS, DataConfig

HEAD = 100_000
"""`data.max_faces` and `data.num_validation` choose by hash among the first this many faces: only these are held in
memory, and the first task need not wait until all are listed."""


class RejectedError(Exception):
    """A source that cannot become a sample; the text says why."""


@dataclass(frozen=True)
class SourceFace:
    """An aligned HQ crop: (R, R, 3) uint8 RGB, five (x, y) landmarks in pixels where known, digest of its source.

    `crop` tells how it was cut out of a photograph, None where it came as it is; see `AlignedFace.facts`.
    """

    image: Image
    landmarks: list[list[float]] | None
    sha256: str
    crop: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """One face to be read: the number of a portrait, or a file, for which see `pipelines.storage.files.File`."""

    name: str
    path: Path | str | None = None
    portrait: int = 0
    size: int = 0
    stamp: str = ""
    offset: int | None = None

    def load(self, resolution: int, max_pixels: int = MAX_PIXELS) -> SourceFace:
        """Read an aligned crop at `resolution` pixels. Raises `RejectedError` when it cannot be used."""
        if self.path is None:
            portrait = draw_portrait(self.portrait, resolution)
            sha256 = hashlib.sha256(portrait.image.tobytes()).hexdigest()
            return SourceFace(portrait.image, portrait.landmarks.tolist(), sha256)
        data = self.read()
        try:
            image = read_srgb(data, max_pixels)
        except ImageError as error:
            raise RejectedError(str(error)) from None
        height, width = image.shape[:2]
        if height != width:
            raise RejectedError(f"not square: {width}x{height} pixels, where an aligned crop is wanted")
        if height < resolution:
            raise RejectedError(f"too small: {height} pixels, where {resolution} are wanted")
        return SourceFace(shrink(image, resolution), None, hashlib.sha256(data).hexdigest())

    def read(self) -> bytes:
        """Return the file of a source that is no portrait. Raises `RejectedError` when it cannot be read."""
        assert self.path is not None  # noqa: S101  # a portrait has no file
        try:
            return read_file(self.path, self.stamp, self.offset, self.size)
        except OSError as error:
            raise RejectedError(f"cannot be read: {error.strerror}") from None


@dataclass(frozen=True)
class Sources(Iterable[Source]):
    """The sources of one split, in a fixed order. Where there are many, going through them lists them anew."""

    head: tuple[Source, ...]
    """The first of them."""
    listing: Callable[[], Iterator[Source]] | None = None
    """Lists all of them, the head too; None where the head is all."""
    passed_over: PassedOver = field(default_factory=PassedOver)
    """What else the last listing has found until now."""

    def __iter__(self) -> Iterator[Source]:
        """Yield one source after the other."""
        return iter(self.head) if self.listing is None else self.listing()

    def without(self, names: Collection[str]) -> "Sources":
        """Return the sources except some."""
        head = tuple(source for source in self.head if source.name not in names)
        listing = self.listing and (lambda: (source for source in self if source.name not in names))
        return Sources(head, listing, self.passed_over)


def check_sources(data: DataConfig) -> None:
    """Raise `UserError` for locations that are missing, or have too few faces; lists no more than the first of each."""
    if data.validation_faces is None:
        _check_enough(data, list(islice(_list(data, data.faces, "data.faces"), data.num_validation + 1)), more=False)
        return
    for key, locations in (("data.faces", data.faces), ("data.validation_faces", data.validation_faces)):
        if next(_list(data, locations, key), None) is None:
            raise _empty(key, locations)


def list_sources(data: DataConfig) -> dict[Split, Sources]:
    """Return the sources of both splits. Raises `UserError` for places that are missing or empty."""
    faces = _open(data, data.faces, "data.faces")
    if data.validation_faces is not None:
        return {"train": faces, "validation": _open(data, data.validation_faces, "data.validation_faces")}
    _check_enough(data, faces.head, more=faces.listing is not None)
    apart = {source.name for source in _by_hash(faces.head)[: data.num_validation]}
    return {
        "train": faces.without(apart),
        "validation": Sources(tuple(source for source in faces.head if source.name in apart)),
    }


def head_digest(sources: Mapping[Split, Sources]) -> str:
    """Return a digest that changes when one of the first sources of a split is added, removed or altered."""
    return digest({split: [ListingDigest.of(part.head), part.listing is None] for split, part in sources.items()})


def _open(data: DataConfig, places: str | list[str], key: str) -> Sources:
    passed_over = PassedOver()
    listing = partial(_limited, data, places, key, passed_over)
    head = tuple(islice(listing(), HEAD + 1))
    if not head:
        raise _empty(key, places)
    return Sources(head[:HEAD], listing if len(head) > HEAD else None, passed_over)


def _empty(key: str, locations: str | list[str]) -> UserError:
    return UserError(f"{key}={locations} is empty; give a folder of aligned face crops (jpg, png, webp)")


def _check_enough(data: DataConfig, head: Sequence[Source], *, more: bool) -> None:
    if not head:
        raise _empty("data.faces", data.faces)
    if len(head) <= data.num_validation:
        raise UserError(
            f"data.num_validation={data.num_validation} holds out {'the first' if more else 'all of the'} {len(head)} "
            f"faces of data.faces={data.faces}: give more faces, hold out fewer, or set data.validation_faces"
        )


def _limited(data: DataConfig, places: str | list[str], key: str, passed_over: PassedOver) -> Iterator[Source]:
    sources = _list(data, places, key, passed_over)
    if data.max_faces is None:
        return sources
    if data.max_faces > HEAD:
        return islice(sources, data.max_faces)
    head = list(islice(sources, HEAD))
    chosen = {source.name for source in _by_hash(head)[: data.max_faces]}
    return (source for source in head if source.name in chosen)


def _by_hash(sources: Iterable[Source]) -> list[Source]:
    """Order sources at random, but so that a face keeps its side of a cut when others are added."""
    return sorted(sources, key=lambda source: hashlib.sha256(source.name.encode(errors="surrogateescape")).digest())


def _list(
    data: DataConfig, places: str | list[str], key: str, passed_over: PassedOver | None = None
) -> Iterator[Source]:
    passed_over = passed_over or PassedOver()
    passed_over.clear()
    if places == PORTRAITS:
        return (Source(f"portrait-{number:06d}", portrait=number) for number in range(data.num_portraits))
    if isinstance(places, str):
        return _files(places, key, passed_over)
    return (source for place, prefix in _prefixes(places, key) for source in _files(place, key, passed_over, prefix))


def _prefixes(places: list[str], key: str) -> list[tuple[str, str]]:
    """Return what the names of each place begin with, where there are several: its own last name."""
    lasts = [PurePosixPath(place).name for place in places]
    if len(set(lasts)) < len(lasts):
        raise UserError(f"{key}={places}: two of these places have the same last name, so their faces could as well")
    # the name of a tar file is the beginning of its faces' names anyway
    return [(place, "" if place.endswith(".tar") else f"{last}/") for place, last in zip(places, lasts, strict=True)]


def _files(place: str, key: str, passed_over: PassedOver, prefix: str = "") -> Iterator[Source]:
    count = 0
    try:
        for count, file in enumerate(list_files(place, passed_over, every_name=True), 1):  # noqa: B007  # told later
            yield Source(prefix + file.name, file.path, 0, file.size, file.stamp, file.offset)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{key}={place} is not a folder; give a folder or an s3://bucket/prefix of aligned face crops or of tar "
            f"files with such, one tar file, a list of these, or {PORTRAITS!r}"
        ) from None
    except OSError as error:
        raise UserError(f"{key}={place} cannot be listed: {error.strerror}") from None
    if not count and passed_over.summary():
        raise UserError(f"{key}={place} has no image{passed_over.summary()}; give one of aligned face crops")
