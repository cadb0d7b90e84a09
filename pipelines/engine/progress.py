"""Progress of a run: bars at a terminal, plain lines in a job's log."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import ray
from tqdm import tqdm

SECONDS_BETWEEN_LINES = 15.0


class Bar:
    """The progress of one piece of work."""

    def __init__(self, name: str, total: int | None, unit: str, done: int = 0) -> None:
        """Begin at `done` of `total`, which is None if unknown."""
        self._name, self._total, self._unit, self._done = name, total, unit, done
        self._start, self._first, self._last_line = time.monotonic(), done, time.monotonic()
        self._bar = tqdm(desc=name, total=total, unit=f" {unit}", initial=done) if sys.stderr.isatty() else None

    def update(self, done: int, note: str = "") -> None:
        """Show `done` of the total, with a note."""
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._done)
        elif done != self._done and (done == self._total or time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES):
            rate = (done - self._first) / max(time.monotonic() - self._start, 1e-6)
            say(f"{self._name}: {self._of_total(done, rate)} {rate:.2f}/s{note and ', '}{note}")
            self._last_line = time.monotonic()
        self._done = done

    def _of_total(self, done: int, rate: float) -> str:
        if self._total is None:
            return f"{done} {self._unit},"
        left = tqdm.format_interval((self._total - done) / rate) if rate else "?"
        return f"{done}/{self._total} {self._unit}, {left} left,"

    def close(self) -> None:
        """Stop updating the bar."""
        if self._bar is not None:
            self._bar.close()


def say(line: str) -> None:
    """Print a line to standard error, above any bars; standard output is for results."""
    tqdm.write(line, file=sys.stderr)
    sys.stderr.flush()


@contextmanager
def bar(name: str, total: int | None, unit: str, done: int = 0) -> Iterator[Bar]:
    """Show a bar while the block runs."""
    progress_bar = Bar(name, total, unit, done)
    try:
        yield progress_bar
    finally:
        progress_bar.close()


@dataclass(frozen=True)
class ProgressSnapshot:
    """The state of a `ProgressActor`, with the lines that were logged since the previous snapshot."""

    done: int
    note: str
    lines: list[str]
    is_running: bool
    placement: Any
    """The last known placement group of the workers."""


class ProgressActor:
    """A Ray actor that connects workers and the driver: progress, log lines, and the request to stop."""

    def __init__(self) -> None:
        """Begin with nothing done."""
        self._done, self._note, self._lines = 0, "", list[str]()
        self._is_running = self._stop_requested = False
        self._idle_since = time.time()
        self._placement: Any = None

    def mark_started(self, placement: Any) -> float:
        """Record that workers run in a placement group; return the `time.time` at which any worker last reported."""
        self._is_running, self._placement = True, placement
        return self._idle_since

    def mark_stopped(self, reason: str) -> None:
        """Record that no worker runs, and log the reason."""
        self._is_running, self._idle_since = False, time.time()
        self._lines.append(reason)

    def update(self, done: int, note: str) -> None:
        """Record the progress."""
        self._done, self._note, self._idle_since = done, note, time.time()

    def log(self, line: str) -> None:
        """Have the driver print a line."""
        self._lines.append(line)

    def request_stop(self) -> None:
        """Ask the workers to stop as soon as possible."""
        self._stop_requested = True

    def stop_requested(self) -> bool:
        """Return whether the workers should stop."""
        return self._stop_requested

    def snapshot(self) -> ProgressSnapshot:
        """Return the state and the lines since the previous snapshot."""
        lines, self._lines = self._lines, []
        return ProgressSnapshot(self._done, self._note, lines, self._is_running, self._placement)


@contextmanager
def follow(
    progress: Any, progress_bar: Bar, monitor: Callable[[ProgressSnapshot], None], stop_when: threading.Event
) -> Iterator[None]:
    """Show the state of `progress`, a handle of a `ProgressActor`, while the block runs.

    `monitor` is called with each snapshot, once per second; when `stop_when` is set, the workers are asked to stop.
    """
    stop = threading.Event()

    def show() -> None:
        if stop_when.is_set():
            progress.request_stop.remote()
        snapshot = ray.get(progress.snapshot.remote(), timeout=10)
        for line in snapshot.lines:
            say(line)
        progress_bar.update(snapshot.done, snapshot.note)
        monitor(snapshot)

    def poll() -> None:
        while not stop.wait(1.0):
            with suppress(ray.exceptions.RayError):  # a lost actor must not end the work
                show()

    thread = threading.Thread(target=poll, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with suppress(ray.exceptions.RayError):
            show()
