"""Which failures of a training are retried, and the error messages of the others."""

from collections.abc import Mapping
from errno import EACCES, EDQUOT, ENOSPC, EROFS
from typing import Any

import ray
from ray.train import ControllerError, TrainingFailedError, UserCallback, WorkerGroupError

from daefr.errors import UserError, one_line
from daefr.training.errors import NonFiniteLossError
from pipelines.errors import StepFailedError
from pipelines.storage.s3 import StorageError
from pipelines.train.failure_kinds import FailureKind, classify

_PERMANENT_ERRNOS = (ENOSPC, EDQUOT, EACCES, EROFS)
_TRANSIENT = (FailureKind.HARDWARE, FailureKind.DIED, FailureKind.LOST_PEER)


class FailFastCallback(UserCallback):  # type: ignore[misc]  # Ray has no types
    """Ends a training after permanent failures; otherwise Ray Train retries `max_failures` times."""

    def __init__(self, stage: str, progress: Any) -> None:
        """Log retries to `progress`. Ray's controller keeps this object for the whole training."""
        self._stage, self._progress, self._last_failure = stage, progress, ""

    def after_exception(self, run_context: object, worker_exceptions: Mapping[int, Exception]) -> None:  # noqa: ARG002
        """Raise an error if the training must end. Ray calls this with the errors of the failed ranks."""
        rank, error = find_cause(worker_exceptions)
        failure, kind = describe(rank, error), classify(error)
        if kind is FailureKind.FINAL:
            raise error
        if kind is FailureKind.OUT_OF_MEMORY:
            raise StepFailedError(_out_of_memory(self._stage, rank))
        if isinstance(error, OSError) and error.errno in _PERMANENT_ERRNOS:
            raise StepFailedError(failure)
        transient = kind in _TRANSIENT or isinstance(error, OSError | StorageError)
        if failure == self._last_failure and not transient:
            raise StepFailedError(f"{failure} (not retried, because the same error occurred twice)")
        self._last_failure = failure
        self._progress.mark_stopped.remote(f"{self._stage}: {failure}: resuming from the last checkpoint")


def find_cause(failures: Mapping[int, BaseException]) -> tuple[int, BaseException]:
    """Return the rank and the error that most likely caused the errors of the other ranks."""
    return min(failures.items(), key=lambda failure: (classify(failure[1]), failure[0]))


def describe(rank: int, error: BaseException) -> str:
    """Return a failure in one line."""
    cause = root_cause(error)
    return one_line(f"rank {rank}: {type(cause).__name__}: {cause}", 500)


def translate(stage: str, error: BaseException) -> Exception:
    """Translate an error of Ray Train to a `UserError`, or a `StepFailedError` with the cause."""
    if isinstance(error, ControllerError):
        cause = root_cause(error.controller_failure)
        if isinstance(cause, UserError):
            return cause
        if isinstance(cause, NonFiniteLossError):
            return StepFailedError(str(cause))
        return StepFailedError(f"{stage}: {one_line(cause, 500)}")
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        rank, cause = find_cause(error.worker_failures)
        if classify(cause) is FailureKind.OUT_OF_MEMORY:
            return StepFailedError(f"{stage}: {_out_of_memory(stage, rank)}")
        return StepFailedError(f"{stage}: {describe(rank, cause)}")
    return StepFailedError(f"{stage}: {one_line(root_cause(error), 500)}")


def root_cause(error: BaseException) -> BaseException:
    """Return the error that Ray's errors wrap, whose own messages begin with a traceback."""
    inner = getattr(error, "health_check_failure", None) or getattr(error, "cause", None)
    return root_cause(inner) if isinstance(inner, BaseException) else error


def _out_of_memory(stage: str, rank: int) -> str:
    return (
        f"rank {rank}: GPU out of memory; increase stages.{stage}.gradient_accumulation_steps, or set "
        f"stages.{stage}.speed.activation_checkpointing=true"
    )


CONTROLLER_LOST = (ray.exceptions.ActorDiedError, ray.exceptions.OutOfMemoryError)
"""Raised in the driver if Ray Train's controller dies, which only the driver can restart.

Not included are errors of an unreachable controller: it may still be training, and a second training would write the
same checkpoints.
"""

RAY_ERRORS = (TrainingFailedError, ray.exceptions.RayError)
