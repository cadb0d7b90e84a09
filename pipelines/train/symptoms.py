"""What the error of a worker is a symptom of, by its type and by the phrases of PyTorch, gloo, NCCL and CUDA."""

from collections.abc import Iterable
from enum import IntEnum

from torch import OutOfMemoryError
from torch.distributed import DistError, DistNetworkError

from daefr.errors import UserError
from daefr.training.errors import NonFiniteLossError, StoppedError


class Symptom(IntEnum):
    """What an error says. Where several workers fail, the lowest is the cause and the others follow from it.

    Under NCCL a worker that loses its peers raises an error or is aborted by PyTorch's watchdog, so that a worker that
    died explains less than an exception of its own does.
    """

    FINAL = 0
    """A mistake of the user, a loss that is not finite, or a requested stop."""
    OUT_OF_MEMORY = 1
    """The GPU's memory does not suffice: it would not suffice again."""
    HARDWARE = 2
    """The GPU or its link has failed: another one may work."""
    OWN = 3
    """Anything else that the worker itself did."""
    DIED = 4
    """A process or a node is gone."""
    LOST_PEER = 5
    """The only trouble of this worker is that another one is gone or unreachable."""


_LOST_PEER = (
    # gloo and TCPStore
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "broken pipe",
    "socket timeout",
    # NCCL, whose errors reach Python as a RuntimeError where a library or another process repeats them
    "closed by remote peer",
    "ncclremoteerror",
    "ncclsystemerror",
    "remote process exited or there was a network error",
    "unhandled system error",
    "communicator was aborted",
    "watchdog caught collective operation timeout",
)
_NOT_OF_A_PEER = (
    # what NCCL and PyTorch raise as a DistBackendError although no other worker is gone
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


def symptom(error: BaseException) -> Symptom:
    """Return what a worker's error, as Ray Train gives it, is a symptom of."""
    if isinstance(error, UserError | NonFiniteLossError | StoppedError):
        return Symptom.FINAL
    if type(error).__module__.startswith("ray."):
        return Symptom.DIED
    return _of_runtime_error(error) if isinstance(error, RuntimeError) else Symptom.OWN


def _of_runtime_error(error: RuntimeError) -> Symptom:
    text = str(error).lower()
    names_a_peer = isinstance(error, DistError) or _any(_LOST_PEER, text)
    names_another_cause = not isinstance(error, DistNetworkError) and _any(_NOT_OF_A_PEER, text)
    # first what names the GPU's trouble: NCCL repeats errors of CUDA that it happens to meet
    signs = {
        Symptom.OUT_OF_MEMORY: isinstance(error, OutOfMemoryError) or _any(_OUT_OF_MEMORY, text),
        Symptom.HARDWARE: _any(_HARDWARE, text),
        Symptom.DIED: text.startswith("dataloader worker") and _any(_LOST_DATALOADER, text),
        Symptom.LOST_PEER: names_a_peer and not names_another_cause,
    }
    return next((found for found, is_it in signs.items() if is_it), Symptom.OWN)


def _any(phrases: Iterable[str], text: str) -> bool:
    return any(phrase in text for phrase in phrases)
