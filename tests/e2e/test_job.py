"""The pipeline as a job of a Ray cluster that has the dependencies, but not the project."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.command import ROOT
from tests.e2e.nodes import Nodes, start_cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    with start_cluster(cpus=2) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a working directory holds: the project's files, without environment and runs."""
    copy = tmp_path_factory.mktemp("project")
    for name in ("pipelines", "daefr", "degradations", "tests/e2e"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def test_a_job_runs_steps_of_the_project_that_travelled_with_it(cluster: Nodes, project: Path, tmp_path: Path) -> None:
    arguments = ["--config", "tests/e2e/tiny.yaml", f"workdir={tmp_path}", "stages.hq_codebook.steps=4"]
    synthesized = cluster.submit(project, "-m", "pipelines", "synthesize", *arguments)
    assert synthesized.returncode == 0, synthesized.stdout + synthesized.stderr
    trained = cluster.submit(project, "-m", "pipelines", "train", "--stage", "hq_codebook", *arguments)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert list(tmp_path.glob("steps/hq_codebook-*/checkpoint/model.safetensors"))
    assert "model: " in trained.stdout


def test_a_job_that_fails_says_so_with_its_exit_code(cluster: Nodes, project: Path) -> None:
    failed = cluster.submit(project, "pipelines/full.py", "--config", "tests/e2e/tiny.yaml", "data.colour=red")
    assert failed.returncode != 0
    assert "unknown key data.colour" in failed.stdout + failed.stderr
