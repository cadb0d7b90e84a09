"""The files of a place, and their bytes: a folder, a tar file, or a bucket's prefix, with tar files in any of them.

A place is listed one file at a time and in the same order wherever it is: that of the names' bytes, which is S3's.
Only the names of one folder at a time are held, which the order needs, and links, which come last.
"""

import io
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from errno import EACCES, ESTALE
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from daefr.listing import PassedOver, walk
from daefr.outputs import Entry, Folder, Place
from daefr.settings.images import IMAGE_SUFFIXES
from pipelines.storage import s3, tars
from pipelines.storage.address import is_address

logger = logging.getLogger(__name__)

TAR = ".tar"
_READ_AHEAD = 16 * 1024  # more than a tar's header, less than an image: listing must not read the images


class File(NamedTuple):
    """One file of a place, or one member of a tar file there.

    `name` is relative to the place, with slashes. `stamp` changes with the content: the time of change in
    nanoseconds, or S3's entity tag. For a member, `path` and `stamp` are the tar's, and its bytes start at `offset`.
    """

    name: str
    path: str
    size: int
    stamp: str
    offset: int | None = None


def list_files(
    place: str, passed_over: PassedOver | None = None, *, without: str | None = None, every_name: bool = False
) -> Iterator[File]:
    """List the images of a place, of a folder as `daefr.listing.walk` finds them, and those in its tar files.

    An object on S3 is an image by its suffix, or if it has none. What else is there is noted as `passed_over`. Raises
    `FileNotFoundError`, `NotADirectoryError` or another `OSError` for a place that is none, and `UserError` for a
    compressed archive or a damaged tar file, as nothing tells how much of it is lost.
    """
    passed_over = passed_over or PassedOver()
    if is_address(place) or not Path(place).is_dir():
        tars.refuse_compressed(place, place)
    for file, is_image in _list(place, passed_over, without, every_name):
        if file.name.lower().endswith(TAR):
            yield from _members(file, passed_over, every_name)
        elif is_image:
            yield file
        else:
            tars.refuse_compressed(file.name, file.path)
            passed_over.other_files += 1


def log_passed_over(passed_over: PassedOver, place: str) -> None:
    """Log what lies in a place that was listed beside images, if anything does."""
    for line in passed_over.named():
        logger.warning("passed over: %s", line)
    if passed_over.summary():
        logger.warning("%s%s", place, passed_over.summary())


def list_whole_files(place: str) -> Iterator[File]:
    """List every file of a place, be it an image or not, and a tar file as the file that it is."""
    return (file for file, _ in _list(place, PassedOver(), None, every_name=True))


def read_file(path: str | Path, stamp: str, offset: int | None, size: int) -> bytes:
    """Return the bytes of a listed file or member. Raises `OSError` when it is gone, or is another since."""
    if is_address(path):
        return s3.read(str(path), stamp) if offset is None else s3.read(str(path), stamp, offset, size)
    if offset is None:
        return Path(path).read_bytes()
    with Path(path).open("rb") as stream:
        if stamp != str(os.fstat(stream.fileno()).st_mtime_ns):
            raise OSError(ESTALE, "has changed since it was listed", path)
        stream.seek(offset)
        return stream.read(size)


def open_place(place: str) -> Place:
    """Return a folder or a prefix on S3 as a place that results can be written to."""
    return Prefix(place) if is_address(place) else Folder(Path(place))


def exists(path: str) -> bool:
    """Tell whether a file or a folder is there, or an object or anything below a prefix."""
    if not is_address(path):
        return Path(path).exists()
    return s3.find(path) is not None or any(True for _ in s3.list_objects(f"{path}/"))


@dataclass(frozen=True)
class Prefix:
    """A prefix on S3 as a place of results, for which see `daefr.outputs.Place`."""

    address: str

    def where(self, name: str) -> str:
        """See `Place`."""
        return f"{self.address}/{name}"

    def holds(self, name: str) -> bool:
        """See `Place`."""
        return s3.find(self.where(name)) is not None

    def digest(self, name: str) -> str | None:
        """See `Place`."""
        return s3.digest(s3.describe(self.where(name)))

    def create(self, name: str, data: bytes) -> None:
        """See `Place`."""
        s3.write(self.where(name), data)

    def replace(self, name: str, data: bytes, digest: str) -> None:
        """See `Place`."""
        found = s3.find(self.where(name))
        if found is None or s3.digest(found) != digest:
            raise FileExistsError
        s3.write(found.address, data, found.etag)

    def remove(self, name: str) -> None:
        """See `Place`."""
        s3.delete([self.where(name)])

    def describe(self, entry: Entry) -> Entry:
        """See `Place`."""
        return entry


def _list(place: str, passed_over: PassedOver, without: str | None, every_name: bool) -> Iterator[tuple[File, bool]]:
    """Yield every file of a place, and whether it is taken for an image; note the links that are not followed."""
    if is_address(place):
        return ((file, _is_image_object(file.name)) for file in _objects(place))
    return _local(Path(place), passed_over, Path(without) if without and not is_address(without) else None, every_name)


def _objects(address: str) -> Iterator[File]:
    if address.lower().endswith(TAR):
        found = s3.describe(address)
        yield File(PurePosixPath(address).name, address, found.size, found.etag)
        return
    folder = address.rstrip("/") + "/"
    for found in s3.list_objects(folder):
        name = found.address.removeprefix(folder)
        if not name.endswith("/") and not tars.is_hidden(name):
            yield File(tars.shown(name), found.address, found.size, found.etag)


def _is_image_object(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) or not PurePosixPath(name).suffix


def _local(place: Path, passed_over: PassedOver, without: Path | None, every_name: bool) -> Iterator[tuple[File, bool]]:
    if place.suffix.lower() == TAR and place.is_file():
        status = place.stat()
        yield File(place.name, str(place.resolve()), status.st_size, str(status.st_mtime_ns)), False
        return
    folder = place.resolve()
    for found in walk(folder, without=without, every_name=every_name):
        path = str(folder / found.name)
        if found.kind == "unreadable":
            raise PermissionError(EACCES, found.note, path)
        if found.kind == "link":
            passed_over.add(found, folder)
            continue
        with suppress(FileNotFoundError):  # it vanished while its folder was listed
            status = os.stat(path)  # noqa: PTH116  # for millions of files
            if stat.S_ISREG(status.st_mode):
                yield File(found.name, path, status.st_size, str(status.st_mtime_ns)), found.kind == "image"
            else:
                passed_over.other_files += 1


def _members(file: File, passed_over: PassedOver, every_name: bool) -> Iterator[File]:
    """List the images in a tar file."""
    for name, member in _contents(file).images(passed_over, file.path, every_name=every_name):
        yield File(f"{file.name}/{tars.shown(name)}", file.path, member.size, file.stamp, member.offset)


@lru_cache(maxsize=1)  # what is checked first is listed next
def _contents(file: File) -> tars.Contents:
    return tars.read_contents(partial(_open, file), file.path)


def _open(file: File) -> IO[bytes]:
    if is_address(file.path):
        stream = s3.ObjectStream(s3.Object(file.path, file.size, file.stamp))
        return io.BufferedReader(stream, _READ_AHEAD)
    return Path(file.path).open("rb", buffering=_READ_AHEAD)
