"""What becomes of the processes of tasks."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from pipelines.engine.tasks import run_tasks
from tests.e2e.command import ROOT


@pytest.fixture(autouse=True, scope="module")
def _one_gpu() -> Iterator[None]:
    """A cluster with a GPU, as far as Ray knows."""
    ray.init(
        address="local",
        num_cpus=1,
        num_gpus=1,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
        object_store_memory=100 * 1024**2,
        log_to_driver=False,
    )
    yield
    ray.shutdown()


def _end(process: int, seconds: float) -> bool:
    """Return whether a process ends within so many seconds."""
    deadline = time.monotonic() + seconds
    while Path(f"/proc/{process}").exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_no_process_holds_a_gpu_after_its_task() -> None:
    made = run_tasks(lambda _: os.getpid(), [(number, number) for number in range(3)], gpus=lambda: 0.5)
    processes = [process for _, process in made]
    assert len(set(processes)) == 3
    assert all(_end(process, 120) for process in processes)


def test_a_process_without_a_gpu_runs_task_after_task() -> None:
    made = run_tasks(lambda _: os.getpid(), [(number, number) for number in range(3)], max_in_flight=1, gpus=lambda: 0)
    processes = {process for _, process in made}
    assert len(processes) == 1
    assert not _end(processes.pop(), 0)
