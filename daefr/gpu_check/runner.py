"""Runs checks one after the other, with time limits, and stores each result at once."""

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
from daefr.gpu_check.checks import Check, CheckResult, Metrics, NotAvailableError, Status

MIN_SECONDS = 5.0
"""A check is not started with less time left."""


class TimeLimitError(BaseException):
    """A check took too long. It is not an `Exception`, so that no library catches it."""


class Runner:
    """Runs checks, prints a line for each, and rewrites a JSON file with all results after each."""

    def __init__(
        self,
        seconds: float,
        path: Path | None,
        description: Metrics,
        *,
        limit_checks: bool = True,
        overwrite: bool = False,
    ) -> None:
        """Limit all checks together to `seconds`, and with `limit_checks` also each check.

        `description` goes into the JSON file, which must not exist without `overwrite`.
        """
        self._new = not overwrite
        self._limit_checks = limit_checks
        self._end, self._path, self._description = time.monotonic() + seconds, path, description
        self._start = time.monotonic()
        self.results: list[Metrics] = []

    def run(self, item: str, checks: Iterable[Check]) -> None:
        """Run the checks of an item."""
        for check in checks:
            self._report(item, check, self._run(check))

    @property
    def failed(self) -> int:
        """The number of failed checks."""
        return sum(result["status"] == "fail" for result in self.results)

    def _run(self, check: Check) -> Metrics:
        left, start = self._end - time.monotonic(), time.monotonic()
        if left < MIN_SECONDS:
            return {"status": "not available", "seconds": 0.0, "problems": ["time limit"], "metrics": {}}
        status: Status
        outcome, trace = CheckResult(), None
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
        # free the check's memory, which its traceback may reference
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        result: Metrics = {"status": status, "seconds": round(time.monotonic() - start, 2), "problems": problems}
        return result | {"metrics": outcome.metrics} | ({"traceback": trace} if trace else {})

    def _report(self, item: str, check: Check, result: Metrics) -> None:
        self.results.append({"item": item, "check": check.name} | result)
        metrics = (f"{key} {_short(value)}" for key, value in result["metrics"].items() if _is_short(value))
        details = ", ".join([*result["problems"], *metrics])
        sys.stdout.write(f"{result['status']:<13}  {item}: {check.name}  [{result['seconds']:.1f} s]  {details}\n")
        sys.stdout.flush()
        self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        content = {**self._description, "seconds": round(time.monotonic() - self._start, 1), "checks": self.results}
        try:
            with atomic_path(self._path, new=self._new) as temporary:
                temporary.write_text(json.dumps(content, indent=1) + "\n")
        except FileExistsError:
            refuse_existing(self._path, "--json", overwrite=False)
            raise
        self._new = False


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise `TimeLimitError` in the main thread after `seconds`; in another thread, do nothing."""
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
