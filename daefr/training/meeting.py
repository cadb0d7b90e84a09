"""Where the ranks meet once a step: what one of them wishes all do, and one that does not come is named."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from daefr import ranks
from daefr.training.errors import HungRankError

ROLL_CALL_SECONDS = 10.0


class Meeting:
    """Speaks over connections of its own, between CPUs: no step waits for a GPU to be told something."""

    def __init__(self, patience: float, roll_call: float = ROLL_CALL_SECONDS) -> None:
        """Connect all ranks. Every rank must call it.

        `patience` is how many seconds they wait for each other, and `roll_call` how many more for one that is late.
        """
        self._patience, self._roll_call_seconds = patience, roll_call
        if ranks.count() > 1:
            self._wishes = _connect(patience)
            # a group whose time is up cannot be used again
            self._roll_call = _connect(roll_call)

    def any(self, *wishes: bool) -> tuple[bool, ...]:
        """Tell of each wish whether some rank has it; the same on every rank."""
        if ranks.count() == 1:
            return wishes
        votes = torch.tensor(wishes, dtype=torch.int32)
        dist.all_reduce(votes, group=self._wishes)
        return tuple(votes.bool().tolist())

    @contextmanager
    def watching(self, what: str) -> Iterator[None]:
        """Turn the time-out of a collective into a `HungRankError` that names the rank that is missing."""
        try:
            yield
        except RuntimeError as error:
            if ranks.count() == 1 or "timed out" not in str(error).lower():
                raise
            raise HungRankError(f"{what}: after {self._patience:g} s {self._missing()}") from error

    def _missing(self) -> str:
        # all that wait run out of patience at the same time, and come here; one that hangs does not
        try:
            dist.monitored_barrier(self._roll_call, timedelta(seconds=self._roll_call_seconds), wait_all_ranks=True)
        except RuntimeError as error:
            named = re.search(r"Ranks ([\d, ]+) failed to pass", str(error))
            if named is None:
                return "nothing comes from rank 0: it hangs, or it names the rank that does"
            return f"nothing comes from rank {named[1]}"
        return "every rank answers again, so one was late"


def _connect(patience: float) -> dist.ProcessGroup:
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=patience))
    assert isinstance(group, dist.ProcessGroup)  # noqa: S101  # every rank is in it
    return group
