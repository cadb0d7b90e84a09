"""What errors say about their cause, wherever it is."""

import errno
import os

import pytest
from ray.exceptions import RayTaskError

from daefr.errors import UserError, is_disk_full, missing_package


def _from(cause: Exception) -> Exception:
    try:
        try:
            raise cause
        except Exception as inner:
            raise ValueError("what follows from it") from inner
    except ValueError as error:
        return error


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "error",
    [
        FULL,
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        RuntimeError("(sqlite3.OperationalError) database or disk is full [SQL: UPDATE runs]"),
        _from(FULL),
        RayTaskError("write", "Traceback ...", FULL),
        _from(RayTaskError("write", "Traceback ...", FULL)),
    ],
)
def test_a_full_disk_is_recognized(error: Exception) -> None:
    assert is_disk_full(error)
    assert not is_disk_full(_from(OSError(errno.EIO, os.strerror(errno.EIO))))


def test_a_missing_package_is_recognized_here_and_on_a_ray_node() -> None:
    missing = ModuleNotFoundError("No module named 'ray.train'", name="ray.train")
    here, there = missing_package(missing), missing_package(RayTaskError("train", "Traceback ...", missing))
    assert here is not None
    assert there is not None
    assert here != there
    assert " ray" in here
    assert missing_package(UserError("anything else")) is None
    own = ModuleNotFoundError("No module named 'daefr'", name="daefr")
    assert missing_package(own) is None
    assert missing_package(RayTaskError("train", "Traceback ...", own)) is not None
