"""SIGTERM, which schedulers send some seconds before SIGKILL: trainings save a checkpoint, then the command exits."""

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
    """The command received SIGTERM. Like `KeyboardInterrupt`, it is no `Exception`."""


@contextmanager
def handle_sigterm(stop_timeout_s: float) -> Iterator[None]:
    """Handle SIGTERM while the block runs. Must be entered by the main thread.

    The process exits `stop_timeout_s` seconds after the signal, whatever it is doing.
    """
    global _stop_timeout  # noqa: PLW0603  # as are signals
    _stop_timeout = stop_timeout_s
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def training() -> Iterator[None]:
    """Let the block end by itself on SIGTERM, because it checks `requested`; then raise `TerminatedError`."""
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
    say("SIGTERM: saving a checkpoint, then exiting")


def _give_up() -> None:
    say(f"still running after {_stop_timeout:g} s, exiting: the same command resumes from the last checkpoint")
    os._exit(EXIT_CODE)
