"""Where the ranks agree once per step on what all of them do, and where a rank that does not come is found."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from daefr import ranks
from daefr.training.errors import HungRankError

FIND_MISSING_SECONDS = 10.0
NCCL_MARGIN_SECONDS = 170.0

_TIMEOUT_PHRASES = ("timed out", "timing out", "timeout")
"""How gloo, TCPStore and NCCL report a collective whose time is up."""


def nccl_timeout_seconds(timeout_seconds: float) -> float:
    """Return the timeout for an NCCL process group whose ranks wait `timeout_seconds` for each other in `RankVote`.

    NCCL's watchdog aborts the process when a collective takes longer, and with it the error that names the missing
    rank. So it has to be the slower of the two, by what it takes to find that rank, raise, and report the error.
    """
    return timeout_seconds + FIND_MISSING_SECONDS + NCCL_MARGIN_SECONDS


class RankVote:
    """Votes over gloo groups of its own, between CPUs, so that no host waits for a GPU.

    With NCCL, a collective returns before it has run; a host only blocks where it reads a result, or once the queue of
    its GPU is full. The vote comes before all of a step's work: whatever rank hung in the step before, and wherever,
    the others arrive here and wait with a timeout of their own.
    """

    def __init__(self, timeout_seconds: float, find_missing_seconds: float = FIND_MISSING_SECONDS) -> None:
        """Connect all ranks. Every rank must call it.

        `timeout_seconds` is how long they wait for each other, and `find_missing_seconds` how much longer for a rank
        that is late.
        """
        self._timeout_seconds, self._find_missing_seconds = timeout_seconds, find_missing_seconds
        if ranks.count() > 1:
            self._votes = _connect(timeout_seconds)
            # a group that has timed out cannot be used again
            self._second_group = _connect(find_missing_seconds)

    def any(self, *votes: bool) -> tuple[bool, ...]:
        """Return for each vote whether any rank has cast it; the same on every rank."""
        if ranks.count() == 1:
            return votes
        counts = torch.tensor(votes, dtype=torch.int32)
        dist.all_reduce(counts, group=self._votes)
        return tuple(counts.bool().tolist())

    def wait(self) -> None:
        """Wait for all ranks, before something that makes the host wait for its GPU, and that for another rank's."""
        self.any(False)

    @contextmanager
    def watching(self, what: str) -> Iterator[None]:
        """Turn the timeout of a collective into a `HungRankError` that names the rank that is missing."""
        try:
            yield
        except RuntimeError as error:
            if ranks.count() == 1 or not is_timeout(error):
                raise
            raise HungRankError(f"{what}: after {self._timeout_seconds:g} s {self._find_missing_ranks()}") from error

    def _find_missing_ranks(self) -> str:
        # all that wait time out at the same time, and come here; one that hangs does not
        try:
            dist.monitored_barrier(
                self._second_group, timedelta(seconds=self._find_missing_seconds), wait_all_ranks=True
            )
        except RuntimeError as error:
            named = re.search(r"Ranks ([\d, ]+) failed to pass", str(error))
            if named is None:
                return "no answer from rank 0: it hangs, or it names the rank that does"
            return f"no answer from rank {named[1]}"
        return "every rank answers again, so one was late"


def is_timeout(error: BaseException) -> bool:
    """Return whether an error of a collective says that its time was up, rather than that a rank was lost.

    PyTorch's `DistBackendError` and `DistNetworkError` are `RuntimeError`s; both occur for either.
    """
    return isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in _TIMEOUT_PHRASES)


def _connect(timeout_seconds: float) -> dist.ProcessGroup:
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_seconds))
    assert isinstance(group, dist.ProcessGroup)  # noqa: S101  # every rank is in it
    return group
