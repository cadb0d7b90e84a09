"""What a run tells whoever watches it: bars for a person at a terminal, plain lines in a job's log."""

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
        """Begin at `done` of `total`, None where that is not known yet."""
        self._name, self._total, self._unit, self._done = name, total, unit, done
        self._start, self._first, self._last_line = time.monotonic(), done, time.monotonic()
        self._bar = tqdm(desc=name, total=total, unit=f" {unit}", initial=done) if sys.stderr.isatty() else None

    def update(self, done: int, note: str = "") -> None:
        """Show that `done` of the total is done; `note` says how it goes."""
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._done)
        elif done != self._done and (done == self._total or time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES):
            rate = (done - self._first) / max(time.monotonic() - self._start, 1e-6)
            say(f"{self._name}: {self._of_total(done, rate)} {rate:.2f} a second{note and ', '}{note}")
            self._last_line = time.monotonic()
        self._done = done

    def _of_total(self, done: int, rate: float) -> str:
        if self._total is None:
            return f"{done} {self._unit},"
        left = tqdm.format_interval((self._total - done) / rate) if rate else "?"
        return f"{done}/{self._total} {self._unit}, {left} left,"

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


def say(line: str) -> None:
    """Print a line of progress to standard error, above any bars: standard output is for results."""
    tqdm.write(line, file=sys.stderr)
    sys.stderr.flush()


@contextmanager
def bar(name: str, total: int | None, unit: str, done: int = 0) -> Iterator[Bar]:
    """Show a bar while the block runs."""
    shown = Bar(name, total, unit, done)
    try:
        yield shown
    finally:
        shown.close()


@dataclass(frozen=True)
class Reading:
    """What stands on a `Board`, with the lines that were told since it was read before."""

    done: int
    note: str
    lines: list[str]
    running: bool
    held: Any
    """What the work was last known to hold of the cluster."""


class Board:
    """A Ray actor between a piece of work that runs anywhere and the driver: how far it is, what to tell, when to stop.

    The work begins, and is lost or begun anew by others, perhaps several times; in between nobody works.
    """

    def __init__(self) -> None:
        """Begin with nothing done."""
        self._done, self._note, self._lines = 0, "", list[str]()
        self._running = self._stopping = False
        self._idle_since = time.time()
        self._held: Any = None

    def begin(self, held: Any) -> float:
        """Note that the work has begun, and what it holds of the cluster.

        Returns since when nobody was seen to work, as `time.time` tells it.
        """
        self._running, self._held = True, held
        return self._idle_since

    def lose(self, line: str) -> None:
        """Note that nobody works now, and have the driver say why."""
        self._running, self._idle_since = False, time.time()
        self._lines.append(line)

    def write(self, done: int, note: str) -> None:
        """Note how much is done."""
        self._done, self._note, self._idle_since = done, note, time.time()

    def tell(self, line: str) -> None:
        """Have the driver say a line."""
        self._lines.append(line)

    def stop(self) -> None:
        """Ask the work to end as soon as it can."""
        self._stopping = True

    def stopping(self) -> bool:
        """Tell whether the work was asked to end."""
        return self._stopping

    def read(self) -> Reading:
        """Return what is to be shown."""
        lines, self._lines = self._lines, []
        return Reading(self._done, self._note, lines, self._running, self._held)


@contextmanager
def follow(board: Any, shown: Bar, watch: Callable[[Reading], None], stop_when: threading.Event) -> Iterator[None]:
    """Show what is written on `board`, a handle of a `Board` actor, while the block runs.

    `watch` is called each second with what was read; when `stop_when` is set, the work is asked to end.
    """
    stop = threading.Event()

    def show() -> None:
        if stop_when.is_set():
            board.stop.remote()
        reading = ray.get(board.read.remote(), timeout=10)
        for line in reading.lines:
            say(line)
        shown.update(reading.done, reading.note)
        watch(reading)

    def poll() -> None:
        while not stop.wait(1.0):
            with suppress(ray.exceptions.RayError):  # the work goes on without an audience
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
