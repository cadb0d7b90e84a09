"""A tree of files that is written and read whole, file by file: a folder here, or the same below an address on S3."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from daefr.files import write_aside
from pipelines.storage import s3


def names(place: str) -> list[str]:
    """Return the names of all files below a place, relative to it, sorted; none where nothing is."""
    if s3.is_address(place):
        return [found.address.removeprefix(f"{place}/") for found in s3.list_objects(f"{place}/")]
    return sorted(path.relative_to(place).as_posix() for path in Path(place).rglob("*") if path.is_file())


def put(path: Path, place: str, name: str) -> None:
    """Store a file: it is there whole, or not at all."""
    if s3.is_address(place):
        s3.upload(path, f"{place}/{name}")
        return
    target = Path(place) / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with write_aside(target) as temporary:
        shutil.copyfile(path, temporary)


def get(place: str, name: str, path: Path) -> None:
    """Read a file into one of this machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        s3.download(f"{place}/{name}", stream)


def read(place: str, name: str) -> bytes:
    """Return a file's bytes. Raises `FileNotFoundError` where it is not."""
    return s3.read(f"{place}/{name}") if s3.is_address(place) else (Path(place) / name).read_bytes()


def delete(place: str, gone: Iterable[str]) -> None:
    """Delete files; what is not there any more is no error."""
    if s3.is_address(place):
        s3.delete(f"{place}/{name}" for name in gone)
        return
    for name in gone:
        (Path(place) / name).unlink(missing_ok=True)
