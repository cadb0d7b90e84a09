"""A folder of this machine that several processes fill once and read together, such as a download that all need."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import FileLock

from daefr.errors import UserError


@contextmanager
def shared_on_node(key: str, fill: Callable[[Path], None]) -> Iterator[Path]:
    """Give the folder of `key`, which the first process fills while the others wait, and the last one deletes.

    What a process that was killed left is filled anew, as nobody knows how much of it is complete.
    """
    folder = _root() / hashlib.sha256(key.encode()).hexdigest()[:16]
    mutex = FileLock(folder.with_suffix(".lock"))
    with folder.with_suffix(".users").open("w") as users:
        with mutex:
            if _is_unused(users):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
            fcntl.flock(users, fcntl.LOCK_SH)
        try:
            yield folder
        finally:
            with mutex:
                fcntl.flock(users, fcntl.LOCK_UN)
                if _is_unused(users):
                    shutil.rmtree(folder, ignore_errors=True)


def _root() -> Path:
    root = Path(tempfile.gettempdir()) / f"daefr-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    if root.is_symlink() or root.stat().st_uid != os.getuid():
        raise UserError(f"{root} belongs to another user: set TMPDIR to a folder of your own")
    return root


def _is_unused(users: IO[str]) -> bool:
    """Tell whether no process has the folder. Called with the mutex, so that nobody asks or comes at the same time."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
