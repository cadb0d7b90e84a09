"""Runs checks one after the other, each within its time, and keeps every result at once."""

import gc
import json
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from daefr.files import atomic_path, refuse_existing
from daefr.gpu_check.checks import Check, Figures, NotAvailableError, Outcome, Status

LEAST_SECONDS = 5.0
"""A check is not begun with less time left."""


class TimeLimitError(BaseException):
    """A check took too long. Not an `Exception`, so that no library takes it for one of its own."""


class Runner:
    """Runs checks, prints a line for each, and writes all of them to a JSON file after each."""

    def __init__(
        self,
        seconds: float,
        path: Path | None,
        about: Figures,
        *,
        limit_checks: bool = True,
        overwrite: bool = False,
    ) -> None:
        """Allow all checks together so many seconds, and with `limit_checks` each check its own.

        `about` describes the run in the JSON file, which must not exist unless it is to be overwritten.
        """
        self._new = not overwrite
        self._limit_checks = limit_checks
        self._end, self._path, self._about = time.monotonic() + seconds, path, about
        self._start = time.monotonic()
        self.results: list[Figures] = []

    def run(self, item: str, checks: Iterable[Check]) -> None:
        """Run the checks of an item."""
        for check in checks:
            self._report(item, check, self._attempt(check))

    @property
    def failed(self) -> int:
        """How many checks failed."""
        return sum(result["status"] == "fail" for result in self.results)

    def _attempt(self, check: Check) -> Figures:
        left, start = self._end - time.monotonic(), time.monotonic()
        if left < LEAST_SECONDS:
            return {"status": "not available", "seconds": 0.0, "problems": ["time limit"], "figures": {}}
        status: Status
        outcome, trace = Outcome(), None
        try:
            with _time_limit(min(left, check.seconds) if self._limit_checks else left):
                outcome = check.run()
            status, problems = ("fail" if outcome.problems else "pass"), outcome.problems
        except NotAvailableError as error:
            status, problems = "not available", [str(error)]
        except TimeLimitError:
            status, problems = "not available", [f"stopped after {time.monotonic() - start:.0f} s"]
        except Exception as error:
            status, problems, trace = "fail", [_first_line(error)], traceback.format_exc()
        # what the check allocated, which its traceback would keep
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        result: Figures = {"status": status, "seconds": round(time.monotonic() - start, 2), "problems": problems}
        return result | {"figures": outcome.figures} | ({"traceback": trace} if trace else {})

    def _report(self, item: str, check: Check, result: Figures) -> None:
        self.results.append({"item": item, "check": check.name} | result)
        figures = (f"{key} {_short(value)}" for key, value in result["figures"].items() if _is_short(value))
        shown = ", ".join([*result["problems"], *figures])
        sys.stdout.write(f"{result['status']:<13}  {item}: {check.name}  [{result['seconds']:.1f} s]  {shown}\n")
        sys.stdout.flush()
        self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        about = self._about | {"seconds": round(time.monotonic() - self._start, 1)}
        try:
            with atomic_path(self._path, new=self._new) as temporary:
                temporary.write_text(json.dumps(about | {"checks": self.results}, indent=1) + "\n")
        except FileExistsError:
            refuse_existing(self._path, "--json", overwrite=False)
            raise
        self._new = False


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise `TimeLimitError` in the main thread after so many seconds; in another thread, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TimeLimitError

    before: Any = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_short(value: Any) -> bool:
    return not isinstance(value, list) or not value
