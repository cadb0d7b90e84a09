"""Which failures of a training are tried again."""

import errno
from unittest.mock import Mock

import pytest
from ray.exceptions import ActorDiedError
from ray.train import ControllerError, WorkerGroupError

from daefr.errors import UserError
from daefr.training.errors import NonFiniteLossError
from pipelines.engine.errors import StepFailedError
from pipelines.storage.s3 import StorageError
from pipelines.train.failures import GiveUpEarly, translate

LOST_PEER = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:52021")


@pytest.mark.parametrize(
    "error",
    [
        UserError("the shard is missing"),
        NonFiniteLossError("hq_codebook: not a finite number at step 3"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
)
def test_what_stays_ends_at_once(error: Exception) -> None:
    with pytest.raises((UserError, NonFiniteLossError, StepFailedError), match=r"missing|finite|No space"):
        GiveUpEarly("association", Mock()).after_exception(None, {1: error, 0: LOST_PEER})


@pytest.mark.parametrize(
    "error", [ActorDiedError(), StorageError("S3 still answers 503"), OSError(errno.EIO, "I/O error"), LOST_PEER]
)
def test_what_passes_is_tried_as_often_as_is_allowed(error: Exception) -> None:
    board = Mock()
    policy = GiveUpEarly("association", board)
    for _ in range(5):
        policy.after_exception(None, {0: error})
    assert board.lose.remote.call_count == 5
    assert "goes on from its last checkpoint" in board.lose.remote.call_args.args[0]


def test_an_error_that_comes_again_word_for_word_is_not_tried_a_third_time() -> None:
    policy = GiveUpEarly("association", Mock())
    policy.after_exception(None, {1: ValueError("at step 3")})
    policy.after_exception(None, {1: ValueError("at step 4")})
    with pytest.raises(StepFailedError, match=r"rank 1: ValueError: at step 4 \(twice in the same way"):
        policy.after_exception(None, {1: ValueError("at step 4")})


def test_the_cause_is_told_rather_than_what_follows_from_it() -> None:
    failed = translate("association", WorkerGroupError("...", {0: LOST_PEER, 1: ValueError("bad\nnumber")}))
    assert str(failed) == "association: rank 1: ValueError: bad number"
    mistake = translate("association", ControllerError(UserError("the shard is missing")))
    assert isinstance(mistake, UserError)
    nan = translate("association", ControllerError(NonFiniteLossError("not finite at step 3")))
    assert isinstance(nan, StepFailedError)
    assert str(nan) == "not finite at step 3"
