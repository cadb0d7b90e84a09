"""One, two and four ranks come to the same, and a rank that hangs is named."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from daefr.settings.base import StageName
from daefr.stages import STAGES
from daefr.training.rank_vote import FIND_MISSING_SECONDS, is_timeout, nccl_timeout_seconds
from tests.daefr import equal

COSTS = ("seconds", "samples_per_second", "cores_in_use", "memory_megabytes")


@pytest.fixture(scope="module")
def by_ranks(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    results: dict[int, dict[str, Any]] = {count: equal.on_ranks(dataset, folder, count) for count in (2, 4)}
    results[1] = {name: equal.trained(name, dataset, folder / f"{name}-1") for name in STAGES}
    return results


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("count", [2, 4])
def test_the_number_of_ranks_changes_nothing(by_ranks: dict[int, dict[str, Any]], name: StageName, count: int) -> None:
    alone, together = by_ranks[1][name], by_ranks[count][name]
    fresh = {path: weight for path, weight in equal.tiny.build(name).named_parameters() if weight.requires_grad}
    moved = [
        path for path, weight in alone["parameters"].items() if path in fresh and not torch.equal(weight, fresh[path])
    ]
    assert len(moved) > len(fresh) / 2
    for path, weight in alone["parameters"].items():
        mine, theirs = _without_key_bias(path, weight), _without_key_bias(path, together["parameters"][path])
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5, msg=lambda text, path=path: f"{path}: {text}")
    assert len(alone["losses"]) == len(together["losses"]) == equal.STEPS
    for mine, theirs in zip(alone["losses"], together["losses"], strict=True):
        _assert_equal_metrics(mine, theirs)
    _assert_equal_metrics(alone["measured"], together["measured"])


def _without_key_bias(path: str, weight: torch.Tensor) -> torch.Tensor:
    """Leave out the bias of keys: softmax takes it out again, its gradient is rounding that Adam makes a step of."""
    if path.endswith(".k.bias"):
        return weight[:0]
    if path.endswith("in_proj_bias"):
        query, _, value = weight.chunk(3)
        return torch.cat([query, value])
    return weight


def _assert_equal_metrics(mine: dict[str, float], theirs: dict[str, float]) -> None:
    assert mine.keys() - theirs.keys() <= {"communication_seconds"}
    for name, value in mine.items():
        if not name.endswith(COSTS) and "samples_per_second" not in name and "checkpoint" not in name:
            assert theirs[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize("hung", [0, 1])
def test_a_hung_rank_is_named(tmp_path: Path, hung: int) -> None:
    torch.multiprocessing.spawn(equal.hang, (tmp_path, hung, 2.0), nprocs=3)
    first = min(rank for rank in range(3) if rank != hung)
    message = (tmp_path / f"rank-{first}").read_text()
    assert message.startswith("hq_codebook, step 2: ")
    assert f"rank {hung}" in message
    assert (tmp_path / "rank-2").exists()


@pytest.mark.parametrize("error", [
    RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 2000ms for recv operation to complete"),
    dist.DistBackendError("WorkNCCL(SeqNum=199, OpType=ALLREDUCE) ran for 600090 milliseconds before timing out."),
    dist.DistStoreError("Socket Timeout"),
])  # fmt: skip
def test_timeouts_of_every_backend_are_recognized(error: Exception) -> None:
    assert is_timeout(error)


@pytest.mark.parametrize("error", [
    RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:52021"),
    dist.DistBackendError("NCCL error in: NCCLUtils.hpp:268, remote process exited or there was a network error"),
    dist.DistNetworkError("Failed to recv, got 0 bytes. Connection was likely closed."),
    ValueError("timed out"),
])  # fmt: skip
def test_a_lost_rank_is_no_timeout(error: Exception) -> None:
    assert not is_timeout(error)


def test_nccl_aborts_later_than_the_vote() -> None:
    assert nccl_timeout_seconds(600) >= 600 + FIND_MISSING_SECONDS + 120
