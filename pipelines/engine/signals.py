"""SIGTERM, which schedulers send some seconds before they kill: trainings write a checkpoint, then the command ends."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.engine.progress import say

EXIT_CODE = 128 + signal.SIGTERM
requested = threading.Event()
_stop_timeout = 25.0
_trainings = 0
_counting = threading.Lock()


class TerminatedError(BaseException):
    """The command was asked to end, like `KeyboardInterrupt`."""


@contextmanager
def heeded(stop_timeout: float) -> Iterator[None]:
    """Heed SIGTERM while the block runs, which the main thread enters.

    `stop_timeout` seconds after it everything ends, whatever it is doing.
    """
    global _stop_timeout  # noqa: PLW0603  # as are signals
    _stop_timeout = stop_timeout
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def training() -> Iterator[None]:
    """Let the block end by itself when SIGTERM comes, for it looks at `requested`; then raise `TerminatedError`."""
    global _trainings  # noqa: PLW0603  # as are signals
    with _counting:
        _trainings += 1
    try:
        yield
    finally:
        with _counting:
            _trainings -= 1
    if requested.is_set():
        raise TerminatedError


def _terminate(*_: object) -> None:
    signal.alarm(0)  # Ray's own handler, which has called this one, would abort the process in three seconds
    if requested.is_set():
        return
    requested.set()
    timer = threading.Timer(_stop_timeout, _give_up)
    timer.daemon = True
    timer.start()
    if not _trainings:
        raise TerminatedError
    say("SIGTERM: a checkpoint is written, then this ends")


def _give_up() -> None:
    say(f"it did not end within {_stop_timeout:g} s: the same command goes on from the last checkpoint")
    os._exit(EXIT_CODE)
