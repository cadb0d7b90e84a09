"""Which failures of a training are worth another try, and what to tell of those that are not."""

from collections.abc import Mapping
from errno import EACCES, EDQUOT, ENOSPC, EROFS
from typing import Any

import ray
from ray.train import ControllerError, TrainingFailedError, UserCallback, WorkerGroupError

from daefr.errors import UserError, one_line
from daefr.training.errors import NonFiniteLossError, StoppedError
from pipelines.engine.errors import StepFailedError
from pipelines.storage.s3 import StorageError

_LASTING = (ENOSPC, EDQUOT, EACCES, EROFS)
_LOST_PEERS = ("connection closed by peer", "connection reset", "connection refused", "broken pipe", "peer")
"""What the ranks say whose only trouble is that another rank has gone."""


class GiveUpEarly(UserCallback):  # type: ignore[misc]  # Ray has no types
    """Ends a training whose failure another try would only repeat; else Ray Train tries `max_failures` times."""

    def __init__(self, stage: str, board: Any) -> None:
        """Remember no failure yet; in Ray's controller, this lives as long as the training."""
        self._stage, self._board, self._before = stage, board, ""

    def after_exception(self, run_context: object, worker_exceptions: Mapping[int, Exception]) -> None:  # noqa: ARG002
        """Raise what ends the training. Ray calls this with the errors of the ranks that have failed."""
        rank, error = first_cause(worker_exceptions)
        told = describe(rank, error)
        if isinstance(error, UserError | NonFiniteLossError | StoppedError):
            raise error
        if isinstance(error, OSError) and error.errno in _LASTING:
            raise StepFailedError(told)
        rays_own = type(error).__module__.startswith("ray.")  # of a worker or node that is gone
        passing = rays_own or isinstance(error, OSError | StorageError) or _is_of_a_lost_peer(error)
        if told == self._before and not passing:
            raise StepFailedError(f"{told} (twice in the same way, so it is not tried again)")
        self._before = told
        self._board.lose.remote(f"{self._stage}: {told}: it goes on from its last checkpoint")


def first_cause(failures: Mapping[int, BaseException]) -> tuple[int, BaseException]:
    """Return the rank and the error that the errors of other ranks come from, as far as can be told."""
    return min(failures.items(), key=lambda failure: (_is_of_a_lost_peer(failure[1]), failure[0]))


def describe(rank: int, error: BaseException) -> str:
    """Return a failure in one line."""
    cause = getattr(error, "health_check_failure", error)  # Ray's wrapping of what befell a worker
    return one_line(f"rank {rank}: {type(cause).__name__}: {cause}", 500)


def translate(stage: str, error: BaseException) -> Exception:
    """Return what to raise for an error of Ray Train's: the user's mistake, or a failed step with its cause."""
    if isinstance(error, ControllerError):
        cause = error.controller_failure
        if isinstance(cause, UserError | NonFiniteLossError):
            return cause if isinstance(cause, UserError) else StepFailedError(str(cause))
        return StepFailedError(f"{stage}: {one_line(cause, 500)}")
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        return StepFailedError(f"{stage}: {describe(*first_cause(error.worker_failures))}")
    return StepFailedError(f"{stage}: {one_line(error, 500)}")


def _is_of_a_lost_peer(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _LOST_PEERS)


CONTROLLER_LOST = (ray.exceptions.ActorDiedError, ray.exceptions.OutOfMemoryError)
"""What the driver sees of the death of Ray Train's controller, which no one but the driver starts again.

Not of one that cannot be reached for a while: it trains on, and two trainings would write the same checkpoints.
"""

RAY_ERRORS = (TrainingFailedError, ray.exceptions.RayError)
