"""What befalls a training in a real Ray: workers die, checkpoints and shards are damaged, numbers end, time is up."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from mlflow import MlflowClient

from daefr.checkpoint import MODEL
from daefr.data.manifest import load_manifest, read_shards
from daefr.errors import UserError
from daefr.files import file_digest
from pipelines.chain import open_chain
from pipelines.config import load_config
from pipelines.engine import cluster
from pipelines.engine.progress import ProgressActor
from pipelines.engine.step import StepResult
from pipelines.errors import StepFailedError
from pipelines.tracking.client import FAILURE
from tests.e2e.command import TINY
from tests.e2e.nodes import training_processes

STEPS = ["stages.hq_codebook.steps=200", "stages.hq_codebook.validate_every_n_steps=100"]


pytestmark = pytest.mark.usefixtures("one_cluster")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


def _train(workdir: Path, *overrides: str) -> StepResult:
    with open_chain(load_config(TINY, [f"workdir={workdir}", *overrides]), "train") as chain:
        return chain.train("hq_codebook", chain.synthesize(), {})


def _reason(workdir: Path) -> str:
    client = MlflowClient(f"sqlite:///{workdir}/mlflow.db")
    experiment = client.get_experiment_by_name("daefr")
    assert experiment is not None
    last = client.search_runs([experiment.experiment_id], "attributes.run_name = 'hq_codebook'")[0]
    assert last.info.status == "FAILED"
    return str(last.data.tags[FAILURE])


class _Meanwhile(threading.Thread):
    """Does something once when a training has that many checkpoints."""

    def __init__(self, workdir: Path, checkpoints: int, act: Callable[[Path], None]) -> None:
        super().__init__(daemon=True)
        self._workdir, self._checkpoints, self._act = workdir, checkpoints, act
        self.acted = False

    def run(self) -> None:
        while not self.acted:
            found = sorted(self._workdir.glob("checkpoints/hq_codebook-*/step-*/manifest.json"))
            if len(found) >= self._checkpoints:
                self._act(found[-1].parent)
                self.acted = True
            time.sleep(0.01)


def _kill_workers() -> None:
    for process in training_processes(os.getpid()):
        os.kill(process, signal.SIGKILL)


def test_a_killed_worker_goes_on_from_the_last_checkpoint_that_is_whole(
    workdir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def kill_and_damage(checkpoint: Path) -> None:
        _kill_workers()
        newest = max(checkpoint.parent.glob("step-*"))
        with (newest / MODEL).open("r+b") as stream:
            stream.seek(-4, os.SEEK_END)
            stream.write(b"\0\1\2\3")

    meanwhile = _Meanwhile(workdir, 2, kill_and_damage)
    meanwhile.start()
    disturbed = _train(workdir, *STEPS)
    assert meanwhile.acted
    assert re.search(r"step-\d{9} is damaged: model.safetensors", capfd.readouterr().err)
    undisturbed = _train(tmp_path, *STEPS)
    assert file_digest(disturbed.folder / "checkpoint" / MODEL) == file_digest(
        undisturbed.folder / "checkpoint" / MODEL
    )


def test_a_non_finite_loss_fails_the_run_at_once(workdir: Path) -> None:
    with pytest.raises(StepFailedError, match=r"^hq_codebook: .* at step \d+: .*$") as caught:
        _train(workdir, "stages.hq_codebook.base_learning_rate=1e30")
    assert _reason(workdir) == str(caught.value)


def test_a_shard_that_is_gone_for_one_rank_only_ends_all(workdir: Path) -> None:
    with open_chain(load_config(TINY, [f"workdir={workdir}"]), "train") as chain:
        dataset = chain.synthesize()
    folder = dataset.folder
    shard = folder / list(read_shards(folder, load_manifest(folder).train))[-1].name
    shard.rename(shard.with_suffix(".away"))
    try:
        with (
            open_chain(load_config(TINY, [f"workdir={workdir}", "compute.hq_codebook.workers=2"]), "train") as chain,
            pytest.raises(UserError, match=shard.name),
        ):
            chain.train("hq_codebook", dataset, {})
    finally:
        shard.with_suffix(".away").rename(shard)


def test_waiting_for_resources_of_other_jobs_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "SECONDS_TO_FREE", 0.2)
    cpus = cluster.cpus()
    other = ray.remote(ProgressActor).options(num_cpus=cpus).remote()
    ray.get(other.snapshot.remote())
    log, entered = list[str](), threading.Event()

    def enter() -> None:
        with cluster.reserve("association", {"CPU": cpus}, log.append):
            entered.set()

    threading.Thread(target=enter, daemon=True).start()
    while not log:
        assert not entered.is_set()
        time.sleep(0.05)
    (line,) = log
    assert f"{cpus:g} CPU" in line and "0 CPU free" in line
    ray.kill(other)
    assert entered.wait(30)


def test_a_stage_that_needs_more_than_the_cluster_fails_at_once() -> None:
    with (
        pytest.raises(UserError, match="1000 CPU"),
        cluster.reserve("x", {"CPU": 1000}, print),
    ):
        pass
