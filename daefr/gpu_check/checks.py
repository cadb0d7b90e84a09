"""What a check is and what it returns."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["pass", "fail", "not available"]
Figures = dict[str, Any]
"""Numbers, texts and lists of them by name, as they go into the JSON file. Seconds, bytes and FLOP/s unless named."""


class NotAvailableError(Exception):
    """A check cannot run here; the text says why."""


@dataclass(frozen=True)
class Outcome:
    """What a check measured; without `problems` it passed."""

    figures: Figures = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    """What is checked, within its item."""
    run: Callable[[], Outcome]
    """Raises `NotAvailableError` where it cannot run; any other exception is a failure."""
    seconds: float = 60
    """It is stopped after so many."""
