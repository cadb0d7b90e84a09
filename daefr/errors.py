"""The exception that means "the user can mend this", and how any error is shown in one line."""

import os
import sys
from collections.abc import Iterator
from errno import EDQUOT, ENOSPC


class UserError(Exception):
    """Bad input. Its text is one sentence for the user: what is wrong, where, and what is valid.

    Command lines print it after ``error:`` and exit with code 2, without a traceback.
    """


def one_line(error: object, limit: int = 300) -> str:
    """Return the text of an error in one line of at most `limit` characters; its type's name if it has no text."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


def is_disk_full(error: BaseException) -> bool:
    """Tell whether an error, or one that led to it, comes from a full disk or an exhausted quota."""
    return any(
        (isinstance(each, OSError) and each.errno in (ENOSPC, EDQUOT)) or any(text in str(each) for text in _DISK_FULL)
        for each in _chain(error)
    )


_DISK_FULL = (os.strerror(ENOSPC), os.strerror(EDQUOT), "database or disk is full")
"""What such errors say where their number is lost: those of other processes, and SQLite's."""


def missing_package(error: BaseException) -> str | None:
    """Return a sentence about the package that an error says is not installed, here or on a Ray node; None for others.

    That this process lacks one of the project's own packages is a defect, not a mistake of the user.
    """
    for each in _chain(error):
        if isinstance(each, ModuleNotFoundError) and each.name:
            package, here = each.name.partition(".")[0], each is error
            if here and package in ("daefr", "degradations", "pipelines"):
                return None
            where = f"the environment {sys.prefix}" if here else "the environment of a Ray node"
            return f"{where} lacks the package {package}: use that of `make setup`, or install daefr[cluster]"
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        inner = getattr(error, "cause", None)  # Ray's
        error = inner if isinstance(inner, BaseException) else error.__cause__ or error.__context__
