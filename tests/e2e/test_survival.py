"""A training outlives its workers, nodes, head and MLflow server. `make test-cluster` runs it."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from daefr.checkpoint import MODEL
from daefr.files import file_digest
from tests.e2e.command import ROOT, TINY, command, environment, run
from tests.e2e.nodes import Nodes, start_cluster, training_processes
from tests.e2e.servers import TrackingServer

pytestmark = pytest.mark.cluster

STAGE = ("--stage", "hq_codebook")
STEPS = (
    "stages.hq_codebook.steps=400", "stages.hq_codebook.validate_every_n_steps=200",
    "stages.hq_codebook.checkpoint_every_n_steps=20",
    "compute.hq_codebook.workers=2", "compute.hq_codebook.placement_strategy=SPREAD",
)  # fmt: skip


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the weights of a training that nothing befalls."""
    folder = tmp_path_factory.mktemp("peace")
    assert run("synthesize", folder).code == 0
    assert run("train", folder, *STAGE, *STEPS).code == 0
    return _digest(folder)


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with start_cluster(cpus=0) as started:
        for _ in range(2):
            started.add(cpus=1)
        yield started


def _digest(workdir: Path) -> str:
    (found,) = workdir.glob(f"steps/hq_codebook-*/checkpoint/{MODEL}")
    return file_digest(found)


class _Driver:
    """The command in the background."""

    def __init__(self, workdir: Path, *overrides: str, variables: dict[str, str] | None = None) -> None:
        self._said = (workdir / "said").open("w+")
        self.process = subprocess.Popen(
            command("train", workdir, TINY, (*STAGE, *STEPS, *overrides)), cwd=ROOT,
            env=environment() | (variables or {}), stderr=self._said, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def end(self, timeout: float = 600) -> tuple[int, str]:
        """Wait for it; return its exit code and what it said."""
        try:
            code = self.process.wait(timeout)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
        self._said.seek(0)
        return code, self._said.read()

    def until(self, reached: Callable[[], bool]) -> None:
        """Wait until something is so, while the command runs."""
        while not reached():
            if self.process.poll() is not None:
                raise AssertionError(self.end()[1])
            time.sleep(0.05)


def _checkpoints(workdir: Path) -> list[Path]:
    return sorted(path.parent for path in workdir.glob("checkpoints/hq_codebook-*/step-*/manifest.json"))


def _workers(nodes: Nodes) -> list[int]:
    return [process for node in nodes.workers for process in training_processes(node.process.pid)]


def _stage_runs(workdir: Path) -> tuple[MlflowClient, list[Run]]:
    client = MlflowClient(f"sqlite:///{workdir}/mlflow.db")
    (experiment,) = [found for found in client.search_experiments() if found.name == "daefr"]
    return client, client.search_runs([experiment.experiment_id], "attributes.run_name = 'hq_codebook'")


def _joined(nodes: Nodes) -> dict[str, str]:
    return {**nodes.variables, "RAY_ADDRESS": nodes.address}


def test_an_mlflow_server_that_is_away_stops_nothing_and_lacks_nothing(wanted: str, tmp_path: Path) -> None:
    server = TrackingServer(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "artifacts"), {}, tmp_path)
    server.start()
    try:
        uri = f"tracking.uri={server.uri}"
        assert run("synthesize", tmp_path, uri).code == 0
        driver = _Driver(tmp_path, uri)
        driver.until(lambda: bool(_checkpoints(tmp_path)))
        server.stop()
        away, before = time.monotonic(), _checkpoints(tmp_path)[-1]
        driver.until(lambda: time.monotonic() - away > 20)
        assert _checkpoints(tmp_path)[-1] > before, "it trains on"
        server.start()
        code, said = driver.end()
        assert code == 0, said
        assert _digest(tmp_path) == wanted
        client = MlflowClient(server.uri)
        version = client.get_model_version_by_alias("daefr-hq-codebook", "candidate")
        history = client.get_metric_history(version.run_id, "loss")
        assert [metric.step for metric in sorted(history, key=lambda metric: metric.step)] == list(range(4, 401, 4))
    finally:
        server.stop()


def test_a_node_that_is_lost_is_replaced(wanted: str, nodes: Nodes, tmp_path: Path) -> None:
    assert run("synthesize", tmp_path).code == 0
    driver = _Driver(tmp_path, variables=_joined(nodes))
    driver.until(lambda: len(_checkpoints(tmp_path)) > 1)
    nodes.workers.pop().kill()
    nodes.add(cpus=1)
    code, said = driver.end()
    assert code == 0, said
    assert "resuming from the last checkpoint" in said
    assert _digest(tmp_path) == wanted


def test_a_worker_that_hangs_is_named_and_replaced(wanted: str, nodes: Nodes, tmp_path: Path) -> None:
    assert run("synthesize", tmp_path).code == 0
    driver = _Driver(tmp_path, "compute.hq_codebook.collective_timeout_s=20", variables=_joined(nodes))
    driver.until(lambda: len(_checkpoints(tmp_path)) > 1)
    os.kill(_workers(nodes)[0], signal.SIGSTOP)
    code, said = driver.end()
    assert code == 0, said
    assert re.search(r"HungRankError: .* after 20 s no answer from rank [01].*resuming from the last", said), said
    assert _digest(tmp_path) == wanted


def test_workers_that_are_killed_for_want_of_memory_are_replaced(wanted: str, tmp_path: Path) -> None:
    memory = psutil.virtual_memory()
    if memory.available < 12e9:
        pytest.skip("needs 12 GB of free memory")
    assert run("synthesize", tmp_path).code == 0
    # below what Ray kills workers, beside room for the cluster and its training
    limit = (memory.total - memory.available + 8e9) / memory.total
    with start_cluster(cpus=0, environment={"RAY_memory_usage_threshold": str(limit)}) as nodes:
        for _ in range(2):
            nodes.add(cpus=1)
        driver = _Driver(tmp_path, variables=_joined(nodes))
        driver.until(lambda: len(_checkpoints(tmp_path)) > 1)
        workers, taken = set(_workers(nodes)), list[bytes]()
        while workers <= set(_workers(nodes)):
            taken.append(os.urandom(100_000_000))
            assert psutil.virtual_memory().available > 2e9, "Ray kills nothing"
        taken.clear()
        code, said = driver.end()
    assert code == 0, said
    assert "running low on memory" in said
    assert _digest(tmp_path) == wanted


def test_as_many_workers_train_as_the_cluster_has_room_for(tmp_path: Path) -> None:
    assert run("synthesize", tmp_path).code == 0
    with start_cluster(cpus=0) as nodes:
        nodes.add(cpus=1)
        # how long Ray tries to start as many workers as before on a cluster that has lost a node
        variables = _joined(nodes) | {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60"}
        overrides = ("compute.hq_codebook.workers=[1,2]", "stages.hq_codebook.steps=100000")
        driver = _Driver(tmp_path, *overrides, variables=variables)

        def has_said(line: str, times: int = 1) -> bool:
            return (tmp_path / "said").read_text().count(line) == times

        driver.until(lambda: has_said("1 worker, first step after"))
        nodes.add(cpus=1)
        driver.until(lambda: has_said("2 workers, first step after"))
        nodes.workers.pop().kill()
        driver.until(lambda: has_said("1 worker, first step after", times=2))
        reached = _checkpoints(tmp_path)[-1]
        driver.until(lambda: _checkpoints(tmp_path)[-1] > reached)
        driver.process.send_signal(signal.SIGTERM)
        assert driver.end(timeout=60)[0] == 143
    client, (trained,) = _stage_runs(tmp_path)
    steps = {metric.step for metric in client.get_metric_history(trained.info.run_id, "loss")}
    assert steps == set(range(4, max(steps) + 1, 4)) | {max(steps)}


def test_after_the_head_was_lost_the_same_command_goes_on(wanted: str, nodes: Nodes, tmp_path: Path) -> None:
    assert run("synthesize", tmp_path).code == 0
    driver = _Driver(tmp_path, variables=_joined(nodes))
    driver.until(lambda: len(_checkpoints(tmp_path)) > 1)
    assert nodes.head is not None
    nodes.head.kill()
    code, said = driver.end(timeout=200)
    assert code not in (0, None), said
    for node in nodes.workers:
        node.kill()
    nodes.workers.clear()
    nodes.start_head(cpus=2)
    before = _checkpoints(tmp_path)[0].name
    code, said = _Driver(tmp_path, variables=_joined(nodes)).end()
    assert code == 0, said
    assert before != "step-000000400"
    assert "hq_codebook: resuming" in said
    assert _digest(tmp_path) == wanted


def test_sigterm_writes_a_checkpoint_and_ends_in_time(wanted: str, tmp_path: Path) -> None:
    assert run("synthesize", tmp_path).code == 0
    driver = _Driver(tmp_path, "stages.hq_codebook.checkpoint_every_n_steps=1000")

    def trains() -> bool:
        _, runs = _stage_runs(tmp_path)
        return bool(runs) and "loss" in runs[0].data.metrics

    driver.until(trains)
    start = time.monotonic()
    driver.process.send_signal(signal.SIGTERM)
    code, said = driver.end(timeout=60)
    assert time.monotonic() - start < 30
    assert code == 143, said
    assert said.splitlines()[-1] == "terminated: the same command resumes from here"
    (checkpoint,) = _checkpoints(tmp_path)
    assert 0 < int(checkpoint.name.rpartition("-")[2]) < 400
    code, said = _Driver(tmp_path, "stages.hq_codebook.checkpoint_every_n_steps=1000").end()
    assert code == 0, said
    assert _digest(tmp_path) == wanted


def test_a_node_that_announces_its_end_costs_no_step_and_no_failure(wanted: str, nodes: Nodes, tmp_path: Path) -> None:
    assert run("synthesize", tmp_path).code == 0
    overrides = ("compute.hq_codebook.max_failures=0", "stages.hq_codebook.checkpoint_every_n_steps=1000")
    driver = _Driver(tmp_path, *overrides, variables=_joined(nodes))
    driver.until(lambda: "first step after" in (tmp_path / "said").read_text())
    nodes.workers.pop().process.terminate()
    nodes.add(cpus=1)
    driver.until(lambda: bool(_checkpoints(tmp_path)))
    code, said = driver.end()
    assert code == 0, said
    assert _digest(tmp_path) == wanted
