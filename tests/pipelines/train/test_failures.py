"""Which failures of a training are tried again."""

import errno
import pickle
from unittest.mock import Mock

import pytest
import ray
from ray.exceptions import ActorDiedError, RayTaskError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from torch import AcceleratorError, OutOfMemoryError
from torch.distributed import DistBackendError, DistNetworkError, DistStoreError

from daefr.errors import UserError
from daefr.training.errors import NonFiniteLossError
from pipelines.errors import StepFailedError
from pipelines.storage.s3 import StorageError
from pipelines.train.failure_kinds import FailureKind, classify
from pipelines.train.failures import FailFastCallback, find_cause, translate
from pipelines.train.fit import collective_timeout
from pipelines.train.settings import StageCompute

LOST_PEER = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:52021")


@pytest.mark.parametrize(
    "error",
    [
        UserError("the shard is missing"),
        NonFiniteLossError("hq_codebook: not a finite number at step 3"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
)
def test_permanent_failures_are_not_retried(error: Exception) -> None:
    with pytest.raises((UserError, NonFiniteLossError, StepFailedError)):
        FailFastCallback("association", Mock()).after_exception(None, {1: error, 0: LOST_PEER})


@pytest.mark.parametrize(
    "error", [ActorDiedError(), StorageError("S3 still answers 503"), OSError(errno.EIO, "I/O error"), LOST_PEER]
)
def test_transient_failures_are_retried(error: Exception) -> None:
    progress = Mock()
    policy = FailFastCallback("association", progress)
    for _ in range(5):
        policy.after_exception(None, {0: error})
    assert progress.mark_stopped.remote.call_count == 5


def test_the_same_error_is_retried_only_once() -> None:
    policy = FailFastCallback("association", Mock())
    policy.after_exception(None, {1: ValueError("at step 3")})
    policy.after_exception(None, {1: ValueError("at step 4")})
    with pytest.raises(StepFailedError, match="rank 1: ValueError: at step 4"):
        policy.after_exception(None, {1: ValueError("at step 4")})


def test_the_root_cause_is_reported() -> None:
    failed = translate("association", WorkerGroupError("...", {0: LOST_PEER, 1: ValueError("bad\nnumber")}))
    assert str(failed) == "association: rank 1: ValueError: bad number"
    assert isinstance(translate("association", ControllerError(UserError("the shard is missing"))), UserError)
    nan = translate("association", ControllerError(NonFiniteLossError("not finite at step 3")))
    assert isinstance(nan, StepFailedError)
    assert str(nan) == "not finite at step 3"


def test_the_cause_is_taken_out_of_ray_s_errors() -> None:
    inner = RayTaskError("train", "Traceback (most recent call last):\n  many lines", OSError("Cannot parse URI"))
    for error in (ControllerError(inner), inner.as_instanceof_cause()):
        assert str(translate("association", error)) == "association: Cannot parse URI"


NCCL_LOST = (
    "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.hpp:268, remote process exited or there was a "
    "network error, NCCL version 2.21.5\nncclRemoteError: A call failed possibly due to a network error or a remote "
    "process exiting prematurely.\nLast error:\nsocketProgressOpt: Call to recv from 172.16.0.4<33759> failed : "
    "Connection reset by peer"
)
NCCL_ABORTED = (
    "[PG ID 0 PG GUID 0(default_pg) Rank 3] Process group watchdog thread terminated with exception: [Rank 3] Watchdog "
    "caught collective operation timeout: WorkNCCL(SeqNum=199, OpType=ALLREDUCE, NumelIn=1, NumelOut=1, "
    "Timeout(ms)=600000) ran for 600090 milliseconds before timing out."
)
CUDA = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
    "incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1."
)
REAL_ERRORS = [
    (DistBackendError(NCCL_LOST), FailureKind.LOST_PEER),
    (RuntimeError(NCCL_LOST), FailureKind.LOST_PEER),
    (DistBackendError(NCCL_ABORTED), FailureKind.LOST_PEER),
    (
        DistBackendError(
            "NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:1275, internal error, NCCL version "
            "2.14.3\nncclInternalError: Internal check failed.\nLast error:\nNet : Connection closed by remote peer "
            "node-7<50260>"
        ),
        FailureKind.LOST_PEER,
    ),
    (
        DistBackendError(
            "NCCL error in: ProcessGroupNCCL.cpp:3763, remote process exited or there was a network error, NCCL "
            "version 2.28.8\nncclRemoteError: A call failed possibly due to a network error or a remote process "
            "exiting prematurely.\nLast error:\nNET/IB : Got completion from peer 10.0.0.2<39138> with error 12"
        ),
        FailureKind.LOST_PEER,
    ),
    (
        DistBackendError(
            "NCCL error in: NCCLUtils.cpp:94, unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL "
            "version 2.27.3\nncclSystemError: System call (e.g. socket, malloc) or external library call failed or "
            "device error.\nLast error:\nsocketStartConnect: Connect to 10.0.0.2<41731> failed : Connection refused"
        ),
        FailureKind.LOST_PEER,
    ),
    (DistBackendError("NCCL communicator was aborted on rank 2."), FailureKind.LOST_PEER),
    (DistNetworkError("Failed to recv, got 0 bytes. Connection was likely closed."), FailureKind.LOST_PEER),
    (DistStoreError("Socket Timeout"), FailureKind.LOST_PEER),
    (LOST_PEER, FailureKind.LOST_PEER),
    (RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection reset by peer"), FailureKind.LOST_PEER),
    (
        DistBackendError(
            "NCCL error in: ProcessGroupNCCL.cpp:1331, unhandled cuda error (run with NCCL_DEBUG=INFO for details), "
            "NCCL version 2.18.1\nncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 'an "
            "illegal memory access was encountered'"
        ),
        FailureKind.WORKER,
    ),
    (
        DistBackendError(
            "NCCL error in: NCCLUtils.cpp:77, invalid usage\nncclInvalidUsage: This usually reflects invalid usage of "
            "NCCL library.\nLast error:\nDuplicate GPU detected : rank 1 and rank 0 both on CUDA device 1b000"
        ),
        FailureKind.WORKER,
    ),
    (
        DistBackendError(
            "NCCL error in: NCCLUtils.cpp:94, unhandled system error\nncclSystemError: System call failed.\nLast "
            "error:\nError while creating shared memory segment /dev/shm/nccl-Dx7vQk (size 9637888), error: No space "
            "left on device (28)"
        ),
        FailureKind.WORKER,
    ),
    (RuntimeError("Given groups=1, expected input to have 64 channels from the peer, got 32"), FailureKind.WORKER),
    (AcceleratorError("CUDA error: device-side assert triggered" + CUDA), FailureKind.WORKER),
    (AcceleratorError("CUDA error: an illegal memory access was encountered" + CUDA), FailureKind.WORKER),
    (ValueError("connection closed by peer"), FailureKind.WORKER),
    (RuntimeError("CUDA error: uncorrectable ECC error encountered" + CUDA), FailureKind.HARDWARE),
    (AcceleratorError("CUDA error: unspecified launch failure" + CUDA), FailureKind.HARDWARE),
    (AcceleratorError("CUDA error: CUDA-capable device(s) is/are busy or unavailable" + CUDA), FailureKind.HARDWARE),
    (
        DistBackendError(
            "NCCL error, unhandled cuda error\nLast error:\nCuda failure 214 'uncorrectable ECC error encountered'"
        ),
        FailureKind.HARDWARE,
    ),
    (OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.1 GiB"),
     FailureKind.OUT_OF_MEMORY),
    (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), FailureKind.OUT_OF_MEMORY),
    (
        DistBackendError("NCCL error, unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'"),
        FailureKind.OUT_OF_MEMORY,
    ),
    (RuntimeError("DataLoader worker (pid 123) is killed by signal: Killed. "), FailureKind.DIED),
    (RuntimeError("DataLoader worker (pid(s) 123, 124) exited unexpectedly"), FailureKind.DIED),
    (ActorDiedError(), FailureKind.DIED),
    (WorkerHealthCheckFailedError("A worker health check failed.", ActorDiedError()), FailureKind.DIED),
    (ray.exceptions.OutOfMemoryError("a task was killed due to the node running low on memory"), FailureKind.DIED),
    (NonFiniteLossError("hq_codebook: not a finite number at step 3"), FailureKind.FINAL),
]  # fmt: skip


@pytest.mark.parametrize(("error", "kind"), REAL_ERRORS, ids=[f"{n}-{k.name}" for n, (_, k) in enumerate(REAL_ERRORS)])
def test_an_error_is_recognized(error: Exception, kind: FailureKind) -> None:
    assert classify(error) is kind
    assert classify(pickle.loads(pickle.dumps(error))) is kind, "as Ray brings it to the controller"


@pytest.mark.parametrize(
    "error", [error for error, kind in REAL_ERRORS if kind in (FailureKind.LOST_PEER, FailureKind.HARDWARE)]
)
def test_a_lost_peer_or_a_broken_gpu_is_tried_as_often_as_is_allowed(error: Exception) -> None:
    policy = FailFastCallback("association", Mock())
    for _ in range(5):
        policy.after_exception(None, {0: error, 1: error})


def test_the_error_of_one_rank_is_the_cause_although_nccl_aborted_the_others() -> None:
    died = WorkerHealthCheckFailedError("A worker health check failed.", ActorDiedError())
    failures = {0: died, 1: DistBackendError(NCCL_LOST), 2: ValueError("bad number"), 3: died}
    assert find_cause(failures) == (2, failures[2])
    assert find_cause({0: DistBackendError(NCCL_LOST), 1: died}) == (1, died)
    with pytest.raises(UserError, match="the shard is missing"):
        FailFastCallback("association", Mock()).after_exception(None, failures | {3: UserError("the shard is missing")})


def test_a_gpu_without_enough_memory_ends_the_stage_and_names_the_settings() -> None:
    error = OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of 79.1 GiB")
    for fails in (
        lambda: FailFastCallback("association", Mock()).after_exception(None, {0: LOST_PEER, 3: error}),
        lambda: (_ for _ in ()).throw(translate("association", WorkerGroupError("...", {0: LOST_PEER, 3: error}))),
    ):
        with pytest.raises(StepFailedError) as caught:
            fails()
        assert "rank 3" in str(caught.value)
        assert "stages.association.gradient_accumulation_steps" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_nccl_waits_longer_than_the_ranks_themselves() -> None:
    on_gpus = StageCompute(use_gpu=True, workers=2, collective_timeout_s=300)
    assert collective_timeout(on_gpus) >= 300 + 120
    assert collective_timeout(on_gpus.model_copy(update={"backend": "gloo"})) == 300
    assert collective_timeout(StageCompute(collective_timeout_s=300)) == 300
