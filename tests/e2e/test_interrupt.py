"""Ctrl-C, which a terminal sends to every process of the command, Ray's included."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from daefr.data.manifest import load_manifest
from tests.e2e.command import ROOT, TINY, command, environment, run

PORTRAITS = ("data.num_portraits=80", "data.samples_per_shard=4")
LONG = (
    "stages.hq_codebook.steps=2000",
    "stages.hq_codebook.validate_every_n_steps=1000",
    "stages.hq_codebook.checkpoint_every_n_steps=1000",
)


def _interrupt(
    reached: Callable[[], bool], step: str, workdir: Path, *arguments: str, times: int = 1
) -> tuple[int, list[str]]:
    """Press Ctrl-C once `reached` says so; return the exit code, and the lines printed after it."""
    process = subprocess.Popen(
        command(step, workdir, TINY, arguments),
        cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    while not reached():
        assert process.poll() is None
        time.sleep(0.05)
    for _ in range(times):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.5)
    _, printed = process.communicate(timeout=120)
    return process.returncode, printed.splitlines()


def _statuses(workdir: Path) -> dict[str, str]:
    client = MlflowClient(f"sqlite:///{workdir}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'daefr'")
    return {run.info.run_name: run.info.status for run in client.search_runs([experiment.experiment_id])}


def test_ctrl_c_stops_with_one_line_and_the_same_command_resumes(tmp_path: Path) -> None:
    code, lines = _interrupt(
        lambda: bool(list(tmp_path.glob("steps/synthesize-*/dataset/*.json"))), "synthesize", tmp_path, *PORTRAITS
    )
    assert code == 130, lines
    assert [line for line in lines[1:] if " faces, " not in line] == ["interrupted: the same command resumes from here"]
    assert _statuses(tmp_path) == {"synthesize": "KILLED"}

    (folder,) = tmp_path.glob("steps/synthesize-*")
    assert not (folder / "manifest.json").exists()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("dataset/*.json")}
    finished = run("synthesize", tmp_path, *PORTRAITS)
    assert finished.code == 0, finished.err
    assert "synthesize: resuming" in finished.err
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what was finished is not made again"
    made = load_manifest(folder / "dataset")
    assert made.samples("train") + made.samples("validation") == 80


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with a dataset."""
    workdir = tmp_path_factory.mktemp("run")
    assert run("synthesize", workdir).code == 0
    return workdir


def _is_training(workdir: Path) -> Callable[[], bool]:
    client = MlflowClient(f"sqlite:///{workdir}/mlflow.db")

    def reached() -> bool:
        (experiment,) = client.search_experiments(filter_string="name = 'daefr'")
        runs = client.search_runs([experiment.experiment_id], "attributes.status = 'RUNNING'")
        return any("loss" in run.data.metrics for run in runs)

    return reached


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_in_a_training_saves_a_checkpoint_unless_it_is_pressed_again(dataset: Path, times: int) -> None:
    seed = f"seed={times}"
    assert run("synthesize", dataset, seed).code == 0
    code, lines = _interrupt(
        _is_training(dataset), "train", dataset, "--stage", "hq_codebook", seed, *LONG, times=times
    )
    assert code == 130, lines
    assert lines[-1].startswith("interrupted: the same command resumes")
    assert not any("Traceback" in line for line in lines)
    statuses = _statuses(dataset)
    assert statuses["hq_codebook"] == statuses["train hq_codebook"] == "KILLED"
    if times == 1:
        assert len(list(dataset.glob("checkpoints/hq_codebook-*/step-*/manifest.json"))) == 1


def test_ctrl_c_while_both_codebooks_train_stops_both(dataset: Path) -> None:
    slow = [change.replace("hq", name) for name in ("hq", "lq") for change in LONG]
    code, lines = _interrupt(_is_training(dataset), "full", dataset, "seed=3", *slow)
    assert code == 130, lines
    assert _statuses(dataset)["full"] == "KILLED"
