"""Classifies the errors of workers, by type and by the messages of PyTorch, gloo, NCCL and CUDA."""

from collections.abc import Iterable
from enum import IntEnum

from torch import OutOfMemoryError
from torch.distributed import DistError, DistNetworkError

from daefr.errors import UserError
from daefr.training.errors import NonFiniteLossError, StoppedError


class FailureKind(IntEnum):
    """Kinds of failures. If several workers fail, the one with the lowest kind is the cause of the others.

    With NCCL, PyTorch's watchdog aborts workers that have lost a peer, so a dead worker is a less likely cause than an
    exception.
    """

    FINAL = 0
    """A user error, a non-finite loss, or a requested stop."""
    OUT_OF_MEMORY = 1
    """The GPU is out of memory, which a retry would not change."""
    HARDWARE = 2
    """The GPU or its link has failed; another one may work."""
    WORKER = 3
    """Any other error in the worker."""
    DIED = 4
    """A process or a node was lost."""
    LOST_PEER = 5
    """The worker lost the connection to another one."""


_LOST_PEER = (
    # gloo and TCPStore
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "broken pipe",
    "socket timeout",
    # NCCL, also when another library repeats the message in a RuntimeError
    "closed by remote peer",
    "ncclremoteerror",
    "ncclsystemerror",
    "remote process exited or there was a network error",
    "unhandled system error",
    "communicator was aborted",
    "watchdog caught collective operation timeout",
)
_NOT_OF_A_PEER = (
    # raised as a DistBackendError although no other worker is lost
    "unhandled cuda error",
    "ncclunhandledcudaerror",
    "invalid usage",
    "ncclinvalidusage",
    "ncclinvalidargument",
    "duplicate gpu detected",
    "shared memory segment",  # /dev/shm is too small
    "no socket interface found",
)
_OUT_OF_MEMORY = (
    "cuda out of memory",
    "cuda error: out of memory",
    "cuda failure 2 'out of memory'",
    "cudnn_status_alloc_failed",
    "cublas_status_alloc_failed",
)
_HARDWARE = (
    "uncorrectable ecc error",
    "uncorrectable nvlink error",
    "hardware stack error",
    "unspecified launch failure",
    "fallen off the bus",
    "a hardware error",
    "all cuda-capable devices are busy or unavailable",
    "cuda-capable device(s) is/are busy or unavailable",
    "no cuda-capable device is detected",
    "no cuda gpus are available",
    "cuda error: unknown error",
)
_LOST_DATALOADER = ("is killed by signal", "exited unexpectedly")


def classify(error: BaseException) -> FailureKind:
    """Return the kind of a worker's error as reported by Ray Train."""
    if isinstance(error, UserError | NonFiniteLossError | StoppedError):
        return FailureKind.FINAL
    if type(error).__module__.startswith("ray."):
        return FailureKind.DIED
    return _classify_runtime_error(error) if isinstance(error, RuntimeError) else FailureKind.WORKER


def _classify_runtime_error(error: RuntimeError) -> FailureKind:
    text = str(error).lower()
    names_a_peer = isinstance(error, DistError) or _any(_LOST_PEER, text)
    names_another_cause = not isinstance(error, DistNetworkError) and _any(_NOT_OF_A_PEER, text)
    # errors of the GPU first, because NCCL repeats them
    matches = {
        FailureKind.OUT_OF_MEMORY: isinstance(error, OutOfMemoryError) or _any(_OUT_OF_MEMORY, text),
        FailureKind.HARDWARE: _any(_HARDWARE, text),
        FailureKind.DIED: text.startswith("dataloader worker") and _any(_LOST_DATALOADER, text),
        FailureKind.LOST_PEER: names_a_peer and not names_another_cause,
    }
    return next((kind for kind, matched in matches.items() if matched), FailureKind.WORKER)


def _any(phrases: Iterable[str], text: str) -> bool:
    return any(phrase in text for phrase in phrases)
