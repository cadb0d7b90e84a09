"""A run directory on a disk that is really full."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.command import run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB: MLflow's database takes half of it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system can only be mounted by root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_one_line_and_the_same_command_resumes_once_there_is_space(small_disk: Path) -> None:
    arguments = ("data.num_portraits=80", "data.samples_per_shard=16", "data.lq_variants=4")
    full = run("synthesize", small_disk / "run", *arguments)
    assert full.code == 1, full.err
    (error,) = [line for line in full.err.splitlines() if not line.startswith("synthesize: ")]
    assert error.startswith("error: ")
    assert "No space left on device" in error or "disk is full" in error
    subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
    finished = run("synthesize", small_disk / "run", *arguments)
    assert finished.code == 0, finished.err
    assert finished.started() == ["synthesize"]
