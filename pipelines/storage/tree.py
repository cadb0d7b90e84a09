"""A tree of files, in a local folder or below an address on S3."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from daefr.files import atomic_path
from pipelines.storage import s3
from pipelines.storage.address import is_address


def names(root: str) -> list[str]:
    """Return the names of all files below a root, relative to it and sorted; empty if it does not exist."""
    if is_address(root):
        return [found.address.removeprefix(f"{root}/") for found in s3.list_objects(f"{root}/")]
    return sorted(path.relative_to(root).as_posix() for path in Path(root).rglob("*") if path.is_file())


def put(path: Path, root: str, name: str) -> None:
    """Store a file, atomically."""
    if is_address(root):
        s3.upload(path, f"{root}/{name}")
        return
    with atomic_path(Path(root) / name) as temporary:
        shutil.copyfile(path, temporary)


def download(address: str, name: str, path: Path) -> None:
    """Download a file from S3."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        s3.download(f"{address}/{name}", stream)


def read(root: str, name: str) -> bytes:
    """Return a file's bytes. Raises `FileNotFoundError` if there is no such file."""
    return s3.read(f"{root}/{name}") if is_address(root) else (Path(root) / name).read_bytes()


def delete(root: str, gone: Iterable[str]) -> None:
    """Delete files, ignoring missing ones."""
    if is_address(root):
        s3.delete(f"{root}/{name}" for name in gone)
        return
    for name in gone:
        (Path(root) / name).unlink(missing_ok=True)
