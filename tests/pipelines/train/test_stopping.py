"""A training that is asked to stop has only so much time to store its last checkpoint."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from daefr.checkpoint import MODEL, save_checkpoint
from daefr.training.reporter import Save
from pipelines.train import reporter as reporting
from pipelines.train import stopping
from pipelines.train.checkpoints import Checkpoints, checkpoint_name
from pipelines.train.reporter import RayReporter
from pipelines.train.settings import StageCompute
from tests.daefr import tiny
from tests.s3_server import Proxy, direct

LAST_STEP = 100


@dataclass
class Cluster:
    """What a worker sees of Ray: whether the driver asks it to stop, and the end of a node."""

    asked: bool = False
    node_ends: float | None = None
    uploads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def report(
        self, _: Any, *, checkpoint: Any, checkpoint_dir_name: str, checkpoint_upload_fn: Any, **__: Any
    ) -> None:
        """Store a checkpoint as Ray Train does, on a thread."""
        if checkpoint is not None:
            self.uploads.submit(checkpoint_upload_fn, checkpoint, checkpoint_dir_name)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    made = Cluster()
    context = Mock(**{"get_local_rank.return_value": 0, "get_world_rank.return_value": 0})
    monkeypatch.setattr(reporting.ray.train, "get_context", lambda: context)
    monkeypatch.setattr(reporting.ray.train, "report", made.report)
    for name in ("MetricWriter", "MachineMetrics"):
        monkeypatch.setattr(reporting, name, Mock(**{"return_value.unsent.return_value": []}))
    monkeypatch.setattr(reporting, "barrier", lambda: None)
    monkeypatch.setattr(stopping, "POLL_INTERVAL", 0.01)
    monkeypatch.setattr(stopping.ray, "get", lambda *_, **__: made.asked)

    def news() -> Any:
        info = None if made.node_ends is None else SimpleNamespace(deadline_ms=1000 * made.node_ends)
        return SimpleNamespace(preemption_context=SimpleNamespace(preemption_info=info))

    monkeypatch.setattr(stopping, "get_train_context", news)
    yield made
    made.uploads.shutdown()


def _save(step: int) -> Save:
    def save(directory: Path) -> None:
        save_checkpoint(directory, "hq_codebook", tiny.NETWORK, {}, {"step": step})

    return save


def _reporter(checkpoints: Checkpoints, stop_timeout_s: int) -> RayReporter:
    job: Any = Mock(checkpoints=checkpoints, stop_timeout_s=stop_timeout_s, compute=StageCompute())
    job.training.last_step = LAST_STEP
    return RayReporter(job, Mock(is_over=True))


def _wait_until_asked(reporter: RayReporter) -> None:
    while not reporter.should_stop():
        time.sleep(0.01)


@pytest.fixture
def checkpoints(s3: Proxy, request: pytest.FixtureRequest) -> Checkpoints:
    """A place on a server that takes a second for each model."""
    bucket = f"test-{abs(hash(request.node.name)):x}"
    direct(s3).create_bucket(Bucket=bucket)
    s3.fail(["slow"] * 20, lambda method, path: method == "PUT" and MODEL in path)
    return Checkpoints(f"s3://{bucket}/ray")


@pytest.mark.parametrize("by", ["driver", "node"])
def test_a_checkpoint_that_cannot_be_stored_in_time_is_not_begun(
    by: str, cluster: Cluster, checkpoints: Checkpoints
) -> None:
    with _reporter(checkpoints, stop_timeout_s=3) as reporter:
        reporter.checkpoint(4, _save(4))
        reporter.finish()
        cluster.asked, cluster.node_ends = by == "driver", time.time() + 0.9 if by == "node" else None
        _wait_until_asked(reporter)
        time.sleep(0.1)
        reporter.checkpoint(8, _save(8))
        reporter.finish()
        cluster.node_ends = None
    assert checkpoints.names() == [checkpoint_name(4)]
    with checkpoints.newest(pytest.fail, last_step=100) as found:
        assert found is not None
        assert found[1].trainer() == {"step": 4}


def test_one_that_is_being_stored_is_finished_when_another_has_no_time(
    cluster: Cluster, checkpoints: Checkpoints
) -> None:
    with _reporter(checkpoints, stop_timeout_s=5) as reporter:
        reporter.checkpoint(4, _save(4))
        reporter.finish()
        reporter.checkpoint(8, _save(8))
        cluster.node_ends = time.time() + 1.9
        reporter.checkpoint(12, _save(12))
        reporter.finish()
        cluster.node_ends = None
    assert checkpoints.names() == [checkpoint_name(4), checkpoint_name(8)]


@pytest.mark.parametrize(("step", "stop_timeout_s"), [(8, 600), (LAST_STEP, 1)])
def test_one_that_has_time_is_stored_and_so_is_the_last_of_all(
    step: int, stop_timeout_s: int, cluster: Cluster, checkpoints: Checkpoints
) -> None:
    with _reporter(checkpoints, stop_timeout_s) as reporter:
        reporter.checkpoint(4, _save(4))
        reporter.finish()
        cluster.asked = True
        _wait_until_asked(reporter)
        reporter.checkpoint(step, _save(step))
        reporter.finish()
    assert checkpoint_name(step) in checkpoints.names()


def test_an_unknown_time_is_tried(cluster: Cluster, checkpoints: Checkpoints) -> None:
    with _reporter(checkpoints, stop_timeout_s=4) as reporter:
        cluster.asked = True
        _wait_until_asked(reporter)
        reporter.checkpoint(4, _save(4))
        reporter.finish()
    assert checkpoints.names() == [checkpoint_name(4)]
