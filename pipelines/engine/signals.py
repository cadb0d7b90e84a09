"""SIGTERM, which schedulers send some seconds before SIGKILL, and Ctrl-C: trainings save a checkpoint, then exit."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from pipelines.engine.progress import say

Result = TypeVar("Result")
EXIT_CODE = 128 + signal.SIGTERM
requested = threading.Event()
"""Whether the command was asked to stop."""
abandoned = threading.Event()
"""Whether threads were left running, which end with the process, as does Ray."""
_stop_timeout = 25.0
_trainings = 0
_counting = threading.Lock()
_interrupted = False


class TerminatedError(BaseException):
    """The command received SIGTERM. Like `KeyboardInterrupt`, it is not an `Exception`."""


STOPPED = (KeyboardInterrupt, TerminatedError)
"""The errors that are raised when the command is asked to stop."""


@contextmanager
def handle_signals(stop_timeout_s: float) -> Iterator[None]:
    """Handle SIGTERM and SIGINT while the block runs. Must be entered by the main thread.

    After SIGTERM, the process exits within `stop_timeout_s` seconds, whatever it is doing. After a second SIGINT, it
    does not wait for trainings.
    """
    global _stop_timeout, _interrupted  # as are signals
    _stop_timeout, _interrupted = stop_timeout_s, False
    requested.clear()
    abandoned.clear()
    before = {number: signal.signal(number, handler) for number, handler in _HANDLERS.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def training() -> Iterator[None]:
    """If the command is asked to stop, wait until the block ends, which checks `requested`; then raise an error."""
    global _trainings  # noqa: PLW0603  # as are signals
    with _counting:
        _trainings += 1
    try:
        yield
    finally:
        with _counting:
            _trainings -= 1
    if requested.is_set():
        raise stop_error()


def run_in_threads(calls: Sequence[Callable[[], Result]]) -> list[Result]:
    """Run each call on its own thread; return the results, or raise the first error, once all have ended.

    If a signal interrupts the main thread, it does not wait for them.
    """
    pool = ThreadPoolExecutor(len(calls))
    futures = [pool.submit(call) for call in calls]
    try:
        wait(futures)
    finally:
        pool.shutdown(wait=not abandoned.is_set())
    return [future.result() for future in futures]


def stop_error() -> BaseException:
    """Return the error to raise after a request to stop: one of `STOPPED`."""
    return KeyboardInterrupt() if _interrupted else TerminatedError()


def _terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    signal.alarm(0)  # set by Ray's handler, which calls this one, to abort the process after three seconds
    if requested.is_set():
        return
    requested.set()
    timer = threading.Timer(_stop_timeout, _give_up)
    timer.daemon = True
    timer.start()
    if not _trainings:
        abandoned.set()
        raise TerminatedError
    say("SIGTERM: saving a checkpoint, then exiting")


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    global _interrupted  # noqa: PLW0603  # as are signals
    if requested.is_set() or not _trainings:
        abandoned.set()
        raise KeyboardInterrupt
    _interrupted = True
    requested.set()
    say("interrupted: saving a checkpoint, then exiting; Ctrl-C again exits at once")


_HANDLERS = {signal.SIGTERM: _terminate, signal.SIGINT: _interrupt}


def _give_up() -> None:
    say(f"still running after {_stop_timeout:g} s, exiting; run the same command to resume from the last checkpoint")
    os._exit(EXIT_CODE)
