"""Requests to stop a training early: by the driver, or by the announced preemption of a node."""

import threading
import time
from contextlib import suppress
from typing import Any

import ray
from ray.train.v2._internal.execution.context import get_train_context

POLL_INTERVAL = 1.0
POLL_DELAY = 2.0
"""Seconds until a worker notices a request of the driver."""


class StopListener:
    """Polls for requests on a background thread, so that a step only reads a flag."""

    def __init__(self, progress: Any, stop_timeout_s: float) -> None:
        """Poll a `ProgressActor`, and watch for Ray's notices of nodes that are drained.

        `stop_timeout_s` is the time that the driver gives the training to end.
        """
        self._progress, self._stop_timeout, self._closed = progress, stop_timeout_s, threading.Event()
        self._requested, self._last_poll = False, 0.0
        threading.Thread(target=self._poll, name="stopping", daemon=True).start()

    def should_stop(self) -> bool:
        """Return whether the training should stop."""
        return self._requested or self._preemption() is not None

    def seconds_left(self) -> float:
        """Return the time until the training is killed; infinity if it should not stop."""
        left = [float("inf")]
        if self._requested:
            left.append(self._last_poll + self._stop_timeout - POLL_DELAY - time.monotonic())
        if (notice := self._preemption()) is not None and notice.deadline_ms:
            left.append(notice.deadline_ms / 1000 - time.time())
        return min(left)

    def close(self) -> None:
        """Stop polling."""
        self._closed.set()

    def wait_for_preemption(self) -> None:
        """If a node is about to be preempted, wait until Ray stops this worker.

        A worker that Ray stops at the deadline does not count as a failure, unlike an error before it.
        """
        while (notice := self._preemption()) is not None:
            if notice.deadline_ms and time.time() > notice.deadline_ms / 1000 + 60:
                raise RuntimeError("a node is still running a minute after the deadline of its preemption")
            time.sleep(POLL_INTERVAL)

    def _preemption(self) -> Any:
        # `ray.train.get_preemption_info` is a collective operation of all ranks, too slow for every step
        return get_train_context().preemption_context.preemption_info

    def _poll(self) -> None:
        while not self._closed.wait(POLL_INTERVAL) and not self._requested:
            with suppress(ray.exceptions.RayError):  # the actor or the driver is lost; Ray handles both
                requested: bool = ray.get(self._progress.stop_requested.remote(), timeout=10)
                self._last_poll = time.monotonic()
                self._requested = requested


class StoreTime:
    """An estimate of the time that it takes to write and store a checkpoint."""

    def __init__(self) -> None:
        """Begin without an estimate."""
        self._last: float | None = None

    def record(self, seconds: float) -> None:
        """Record the time of a checkpoint."""
        self._last = seconds

    def expected(self, pending: int) -> float:
        """Return the seconds until another checkpoint would be stored, after `pending` others; 0 if unknown."""
        return 0.0 if self._last is None else self._last * (1 + pending)
