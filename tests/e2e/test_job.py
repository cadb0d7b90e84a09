"""The pipeline as a job of a Ray cluster that has the dependencies, but not the project."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.job_submission import JobSubmissionClient

from tests.e2e.command import ROOT

BIN = Path(sys.executable).parent


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A head node that shares neither ports nor files with another on this machine; yields its address for jobs."""
    port, gcs, agent, client = (_free_port() for _ in range(4))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
        "RAY_AUTH_MODE": "disabled",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",  # a job's python is the first that its node finds
    }
    address = f"http://127.0.0.1:{port}"
    files = tempfile.mkdtemp(prefix="ray-")  # a socket's path may have 107 characters, so not below pytest's
    head = subprocess.Popen(
        [BIN / "ray", "start", "--head", "--block", "--num-cpus=2", "--object-store-memory=200000000",
         "--dashboard-host=127.0.0.1", f"--port={gcs}", f"--dashboard-port={port}",
         f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}",
         f"--temp-dir={files}", "--disable-usage-stats"],
        cwd=tmp_path_factory.mktemp("elsewhere"), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        _wait_for(address, head)
        yield address
    finally:
        head.terminate()
        try:
            head.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
        shutil.rmtree(files, ignore_errors=True)


def _wait_for(address: str, head: subprocess.Popen[bytes]) -> None:
    """Wait until a job is taken, which needs more than an open port: the agent that runs it must have reported."""
    for _ in range(120):
        try:
            JobSubmissionClient(address).submit_job(entrypoint="true")
        except (ConnectionError, RuntimeError):
            if head.poll() is not None:
                break
            time.sleep(1)
        else:
            return
    pytest.fail("the head node did not start")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a working directory holds: the project's files, without environment and runs."""
    copy = tmp_path_factory.mktemp("project")
    for name in ("pipelines", "daefr", "degradations", "tests/e2e"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def _submit(cluster: str, project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [BIN / "ray", "job", "submit", "--address", cluster, "--working-dir", project, "--", "python", *arguments]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=600)


def test_a_job_runs_steps_of_the_project_that_travelled_with_it(cluster: str, project: Path, tmp_path: Path) -> None:
    arguments = ["--config", "tests/e2e/tiny.yaml", f"workdir={tmp_path}", "stages.hq_codebook.steps=4"]
    synthesized = _submit(cluster, project, "pipelines/synthesize.py", *arguments)
    assert synthesized.returncode == 0, synthesized.stdout + synthesized.stderr
    trained = _submit(cluster, project, "pipelines/train.py", "--stage", "hq_codebook", *arguments)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert list(tmp_path.glob("steps/hq_codebook-*/checkpoint/model.safetensors"))
    assert "model: " in trained.stdout


def test_a_job_that_fails_says_so_with_its_exit_code(cluster: str, project: Path) -> None:
    failed = _submit(cluster, project, "pipelines/full.py", "--config", "tests/e2e/tiny.yaml", "data.colour=red")
    assert failed.returncode != 0
    assert "unknown key data.colour" in failed.stdout + failed.stderr
