"""Files that appear under their names only when they are complete, never in place of a file that is not ours."""

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from daefr.errors import UserError

PLACEHOLDER = b"daefr: this file is being written\n"
"""Stands under a new file's name for a moment where the file system has no hard links."""
_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.[0-9a-f]{16}\.tmp")
_IN_THE_WAY = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name, then rename: `path` is whole or as it was."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_bytes(path: Path, data: bytes, *, instead: Callable[[], bool] | None = None) -> None:
    """Write a file whole where there is nothing; or in place of one, if `instead` says at the last moment that it may.

    Raises `FileExistsError` where that is not so. A kill leaves no temporary file, where the file system can have files
    without names, unless it comes in the last moment.
    """
    try:
        stream = os.fdopen(os.open(path.parent, os.O_WRONLY | os.O_TMPFILE, 0o666), "wb")
    except (AttributeError, OSError):  # neither every system nor every file system can
        with atomic_path(path, new=instead is None) as temporary:
            temporary.write_bytes(data)
            if instead is not None and not instead():
                raise FileExistsError from None
        return
    with stream:
        stream.write(data)
        stream.flush()
        if instead is None:
            _name(stream, path)
            return
        temporary = _unused(path)
        try:
            _name(stream, temporary)
            if not instead():
                raise FileExistsError
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_path(path: Path, *, new: bool = False) -> Iterator[Path]:
    """Give an empty file with a temporary name to write to; once the block is done, `path` is that file.

    With `new`, `path` must not exist: raises `FileExistsError` where there is anything by then, which stays as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _reserve(path)
    try:
        yield temporary
        if new:
            publish(temporary, path)
        else:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def expand_home(path: str | Path) -> Path:
    """Return a path with a leading `~` replaced by the home directory; `~name` is a name where no user has it."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  # pathlib raises where there is no such user


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def write_named(path: Path, option: str, *, overwrite: bool) -> Iterator[Path]:
    """Give a temporary name to write to, for a file that the user has named by an argument or an `option`.

    Raises `UserError`, at once or at the end, where the file exists and is not to be overwritten.
    """
    refuse_existing(path, option, overwrite=overwrite)
    if not path.parent.is_dir():
        raise UserError(f"{option} {path} cannot be written: there is no folder {path.parent}")
    try:
        with atomic_path(path, new=not overwrite) as temporary:
            yield temporary
    except FileExistsError:  # another program has made it meanwhile
        raise _exists(path, option) from None


def refuse_existing(path: Path, option: str, *, overwrite: bool) -> None:
    """Raise `UserError` where a file that the user has named for a result cannot become it."""
    if path.is_dir():
        raise UserError(f"{option} {path} cannot be written: it is a folder")
    if os.path.lexists(path) and not overwrite:
        raise _exists(path, option)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder to fill, which is `path` once the block is done.

    Raises `FileExistsError` where there is anything by then, which stays as it is.
    """
    temporary = _reserve(path, folder=True)
    try:
        yield temporary
        path.mkdir()  # fails where there is anything; an empty folder may be replaced
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def is_temporary(name: str) -> bool:
    """Tell whether a file's name is one that `atomic_path` gives, as a killed process leaves them."""
    return _TEMPORARY.fullmatch(name) is not None


def find_in_the_way(error: OSError, path: Path, folder: Path) -> Path | None:
    """Return what keeps `path`, below `folder`, from being a file: a file where a folder has to be, or a folder.

    None where the error of writing it is another one.
    """
    if error.errno not in _IN_THE_WAY:
        return None
    parents = [each for each in path.parents if each.is_relative_to(folder) and each != folder]
    blocking = [each for each in parents if os.path.lexists(each) and not each.is_dir()]
    return blocking[-1] if blocking else path if os.path.lexists(path) else None


def _name(stream: BinaryIO, path: Path) -> None:
    """Give a name to a file that has none yet. Raises `FileExistsError` where there is anything."""
    descriptors = os.open("/proc/self/fd", os.O_RDONLY)
    try:
        # given so, the file behind the link in that folder is meant, and not the link
        os.link(str(stream.fileno()), path, src_dir_fd=descriptors)
    finally:
        os.close(descriptors)


def _unused(path: Path) -> Path:
    """Return a name beside `path` that nothing has, and nothing will by chance."""
    # no longer than other names, as the name of `path` may be as long as names can be
    stem = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    while True:
        temporary = path.with_name(f".{stem}.{secrets.token_hex(8)}.tmp")
        if not os.path.lexists(temporary):
            return temporary


def _reserve(path: Path, *, folder: bool = False) -> Path:
    """Make an empty file or folder beside `path` under a name that nothing else has."""
    while True:
        temporary = _unused(path)
        try:
            if folder:
                temporary.mkdir()
            else:
                os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        except FileExistsError:
            continue
        return temporary


def publish(temporary: Path, path: Path) -> None:
    """Give a file its name. Raises `FileExistsError` where there is anything, which stays as it is.

    The temporary name may be there still when this returns.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # there are file systems without hard links
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(PLACEHOLDER)
        temporary.replace(path)


def _exists(path: Path, option: str) -> UserError:
    return UserError(f"{option} {path} already exists: give another name, or --overwrite to replace it")
