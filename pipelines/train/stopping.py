"""What may ask a training to stop before its end: the driver, or the end of a node that its cluster announces."""

import threading
import time
from contextlib import suppress
from typing import Any

import ray
from ray.train.v2._internal.execution.context import get_train_context

EVERY = 1.0
NOTICING = 2.0
"""Seconds that it may take until a worker hears that the driver asks."""


class StopListener:
    """Listens on a thread of its own, so that a step only looks at a flag."""

    def __init__(self, progress: Any, stop_timeout_s: float) -> None:
        """Begin to listen to a `ProgressActor`, and to Ray's news of nodes that are drained.

        `stop_timeout_s` is how many seconds the driver gives a training to end.
        """
        self._progress, self._stop_timeout, self._closed = progress, stop_timeout_s, threading.Event()
        self._by_driver, self._heard = False, 0.0
        threading.Thread(target=self._listen, name="stopping", daemon=True).start()

    def should_stop(self) -> bool:
        """Tell whether the training is to stop."""
        return self._by_driver or self._preemption() is not None

    def seconds_left(self) -> float:
        """Return how long a training that is to stop has until it is killed; infinity as long as it is not to stop."""
        left = [float("inf")]
        if self._by_driver:
            left.append(self._heard + self._stop_timeout - NOTICING - time.monotonic())
        if (news := self._preemption()) is not None and news.deadline_ms:
            left.append(news.deadline_ms / 1000 - time.time())
        return min(left)

    def close(self) -> None:
        """Listen no more."""
        self._closed.set()

    def wait_for_the_end(self) -> None:
        """Do nothing until Ray takes this worker away, if its node or another's is about to go.

        What Ray ends at the node's deadline does not count as a failure; an error before it would.
        """
        while (news := self._preemption()) is not None:
            if news.deadline_ms and time.time() > news.deadline_ms / 1000 + 60:
                raise RuntimeError("a node that had announced its end is still there a minute later")
            time.sleep(EVERY)

    def _preemption(self) -> Any:
        # what `ray.train.get_preemption_info` tells, which is a meeting of all ranks and so cannot be asked every step
        return get_train_context().preemption_context.preemption_info

    def _listen(self) -> None:
        while not self._closed.wait(EVERY) and not self._by_driver:
            with suppress(ray.exceptions.RayError):  # the actor's node is lost, or the driver, and then this worker
                asked: bool = ray.get(self._progress.stop_requested.remote(), timeout=10)
                self._heard = time.monotonic()
                self._by_driver = asked


class StoreTime:
    """How long it takes to write and store a checkpoint, as far as that is known."""

    def __init__(self) -> None:
        """Begin with nothing known."""
        self._last: float | None = None

    def note(self, seconds: float) -> None:
        """Take note of how long one took."""
        self._last = seconds

    def expected(self, pending: int) -> float:
        """Return the seconds until another one would be stored, beside `pending` ones that are not stored yet."""
        return 0.0 if self._last is None else self._last * (1 + pending)
