"""Why sources, and faces of photographs, are left out of a dataset."""

from collections import Counter
from collections.abc import Iterable

from pydantic import field_validator

from daefr.settings.base import Settings


class Rejection(Settings):
    """A source, or a face of a photograph, that did not become a sample, and why."""

    source: str
    reason: str

    @field_validator("source")
    @classmethod
    def _as_text(cls, name: str) -> str:
        # a file may have a name that is no text, which JSON cannot hold
        return name.encode(errors="surrogateescape").decode(errors="backslashreplace")

    @property
    def kind(self) -> str:
        """What it is counted under: the reason without the figures, which come after a colon."""
        return self.reason.partition(":")[0]


def count_reasons(rejected: Iterable[Rejection]) -> dict[str, int]:
    """Return how many were rejected for each kind of reason, the most frequent first."""
    return most_frequent_first(Counter(rejection.kind for rejection in rejected))


def most_frequent_first(reasons: Counter[str]) -> dict[str, int]:
    """Return counts by kind of reason, the most frequent first, equal counts in the order of their names."""
    return dict(sorted(reasons.items(), key=lambda count: (-count[1], count[0])))
