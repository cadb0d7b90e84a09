"""Checks and their results."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["pass", "fail", "not available"]
Metrics = dict[str, Any]
"""Numbers, texts and lists of them by name, for the JSON file; in seconds, bytes and FLOP/s unless named otherwise."""


class NotAvailableError(Exception):
    """A check cannot run here; the message says why."""


@dataclass(frozen=True)
class CheckResult:
    """The metrics of a check, which has passed if there are no `problems`."""

    metrics: Metrics = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    """The name of the check within its item."""
    run: Callable[[], CheckResult]
    """Raises `NotAvailableError` if it cannot run; any other exception is a failure."""
    seconds: float = 60
    """Time limit."""
