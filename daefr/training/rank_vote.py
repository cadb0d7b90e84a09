"""A vote of all ranks once per step, which also detects ranks that hang."""

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

    NCCL's watchdog aborts the process on a timeout, so its timeout must be longer, by the time that it takes to find
    the missing rank and to report the error.
    """
    return timeout_seconds + FIND_MISSING_SECONDS + NCCL_MARGIN_SECONDS


class RankVote:
    """Votes over separate gloo groups, between CPUs, so that no host waits for a GPU.

    With NCCL, a collective returns before it has run; a host only blocks when it reads a result, or when the queue of
    its GPU is full. The vote comes before all of a step's work, so if a rank hung in the previous step, the others wait
    here, with a timeout.
    """

    def __init__(self, timeout_seconds: float, find_missing_seconds: float = FIND_MISSING_SECONDS) -> None:
        """Connect all ranks. Every rank must call it.

        After a timeout of `timeout_seconds`, the ranks wait for `find_missing_seconds` to find the missing ones.
        """
        self._timeout_seconds, self._find_missing_seconds = timeout_seconds, find_missing_seconds
        if ranks.count() > 1:
            self._votes = _connect(timeout_seconds)
            # a group that has timed out cannot be used again
            self._second_group = _connect(find_missing_seconds)

    def any(self, *votes: bool) -> tuple[bool, ...]:
        """Return for each vote whether it is true on any rank."""
        if ranks.count() == 1:
            return votes
        counts = torch.tensor(votes, dtype=torch.int32)
        dist.all_reduce(counts, group=self._votes)
        return tuple(counts.bool().tolist())

    def wait(self) -> None:
        """Wait for all ranks, before the host waits for its GPU, which may wait for other ranks."""
        self.any(False)

    @contextmanager
    def watching(self, what: str) -> Iterator[None]:
        """Turn the timeout of a collective into a `HungRankError` that names the missing rank."""
        try:
            yield
        except RuntimeError as error:
            if ranks.count() == 1 or not is_timeout(error):
                raise
            raise HungRankError(f"{what}: after {self._timeout_seconds:g} s {self._find_missing_ranks()}") from error

    def _find_missing_ranks(self) -> str:
        # all waiting ranks time out at the same time and get here
        try:
            dist.monitored_barrier(
                self._second_group, timedelta(seconds=self._find_missing_seconds), wait_all_ranks=True
            )
        except RuntimeError as error:
            named = re.search(r"Ranks ([\d, ]+) failed to pass", str(error))
            if named is None:
                return "no answer from rank 0, which hangs or reports the hung rank"
            return f"no answer from rank {named[1]}"
        return "all ranks answer again, so one was late"


def is_timeout(error: BaseException) -> bool:
    """Return whether an error of a collective is a timeout, rather than a lost rank.

    PyTorch's `DistBackendError` and `DistNetworkError` are `RuntimeError`s; both occur for either.
    """
    return isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in _TIMEOUT_PHRASES)


def _connect(timeout_seconds: float) -> dist.ProcessGroup:
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_seconds))
    assert isinstance(group, dist.ProcessGroup)  # noqa: S101  # every rank is in it
    return group
