"""Which failures of a training are worth another try, and what to tell of those that are not."""

from collections.abc import Mapping
from errno import EACCES, EDQUOT, ENOSPC, EROFS
from typing import Any

import ray
from ray.train import ControllerError, TrainingFailedError, UserCallback, WorkerGroupError

from daefr.errors import UserError, one_line
from daefr.training.errors import NonFiniteLossError
from pipelines.errors import StepFailedError
from pipelines.storage.s3 import StorageError
from pipelines.train.symptoms import Symptom, symptom

_LASTING = (ENOSPC, EDQUOT, EACCES, EROFS)
_PASSING = (Symptom.HARDWARE, Symptom.DIED, Symptom.LOST_PEER)


class GiveUpEarly(UserCallback):  # type: ignore[misc]  # Ray has no types
    """Ends a training whose failure another try would only repeat; else Ray Train tries `max_failures` times."""

    def __init__(self, stage: str, progress: Any) -> None:
        """Remember no failure yet; in Ray's controller, this lives as long as the training."""
        self._stage, self._progress, self._before = stage, progress, ""

    def after_exception(self, run_context: object, worker_exceptions: Mapping[int, Exception]) -> None:  # noqa: ARG002
        """Raise what ends the training. Ray calls this with the errors of the ranks that have failed."""
        rank, error = first_cause(worker_exceptions)
        told, kind = describe(rank, error), symptom(error)
        if kind is Symptom.FINAL:
            raise error
        if kind is Symptom.OUT_OF_MEMORY:
            raise StepFailedError(_out_of_memory(self._stage, rank))
        if isinstance(error, OSError) and error.errno in _LASTING:
            raise StepFailedError(told)
        passing = kind in _PASSING or isinstance(error, OSError | StorageError)
        if told == self._before and not passing:
            raise StepFailedError(f"{told} (twice in the same way, so it is not tried again)")
        self._before = told
        self._progress.mark_stopped.remote(f"{self._stage}: {told}: resuming from the last checkpoint")


def first_cause(failures: Mapping[int, BaseException]) -> tuple[int, BaseException]:
    """Return the rank and the error that the errors of other ranks come from, as far as can be told."""
    return min(failures.items(), key=lambda failure: (symptom(failure[1]), failure[0]))


def describe(rank: int, error: BaseException) -> str:
    """Return a failure in one line."""
    cause = root_cause(error)
    return one_line(f"rank {rank}: {type(cause).__name__}: {cause}", 500)


def translate(stage: str, error: BaseException) -> Exception:
    """Return what to raise for an error of Ray Train's: the user's mistake, or a failed step with its cause."""
    if isinstance(error, ControllerError):
        cause = root_cause(error.controller_failure)
        if isinstance(cause, UserError | NonFiniteLossError):
            return cause if isinstance(cause, UserError) else StepFailedError(str(cause))
        return StepFailedError(f"{stage}: {one_line(cause, 500)}")
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        rank, cause = first_cause(error.worker_failures)
        if symptom(cause) is Symptom.OUT_OF_MEMORY:
            return StepFailedError(f"{stage}: {_out_of_memory(stage, rank)}")
        return StepFailedError(f"{stage}: {describe(rank, cause)}")
    return StepFailedError(f"{stage}: {one_line(root_cause(error), 500)}")


def root_cause(error: BaseException) -> BaseException:
    """Return the error inside of Ray's, whose text is a traceback that begins with what matters least."""
    inner = getattr(error, "health_check_failure", None) or getattr(error, "cause", None)
    return root_cause(inner) if isinstance(inner, BaseException) else error


def _out_of_memory(stage: str, rank: int) -> str:
    return (
        f"rank {rank}: its GPU is out of memory: compute the batch in more parts with a higher "
        f"stages.{stage}.gradient_accumulation_steps, or set stages.{stage}.speed.activation_checkpointing=true"
    )


CONTROLLER_LOST = (ray.exceptions.ActorDiedError, ray.exceptions.OutOfMemoryError)
"""What the driver sees of the death of Ray Train's controller, which no one but the driver starts again.

Not of one that cannot be reached for a while: it trains on, and two trainings would write the same checkpoints.
"""

RAY_ERRORS = (TrainingFailedError, ray.exceptions.RayError)
