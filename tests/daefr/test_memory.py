"""Keeping freed memory: the next tensors of the same size find it there."""

import os
import platform
import subprocess
import sys

import pytest

from daefr.memory import KEEP_FREED_MEMORY

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's memory is kept")

# in a process of its own, as what is kept stays so
PROGRAM = """
import resource, threading, torch
{prepare}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones({megabytes} * 2**18) for _ in range(2)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def work():
    for _ in range(20):
        faults()
    print(faults())
{run}
"""
SMALL, LARGE = 40, 80
PAGES = 2 * SMALL * 2**20 // os.sysconf("SC_PAGE_SIZE")
KEEP = "from daefr.memory import keep_freed_memory; keep_freed_memory()"


def _faults(prepare: str, run: str, environment: dict[str, str], megabytes: int = SMALL) -> int:
    """How many pages two tensors made the system clear, when such had been freed many times."""
    program = PROGRAM.format(prepare=prepare, run=run, megabytes=megabytes)
    command = [sys.executable, "-c", program]
    return int(subprocess.run(command, env=os.environ | environment, check=True, capture_output=True).stdout)


def test_freed_memory_is_kept_for_the_next_tensors() -> None:
    assert _faults("", "work()", {}) > PAGES / 600, "huge pages at most"
    assert _faults(KEEP, "work()", {}) < PAGES / 600
    in_thread = "thread = threading.Thread(target=work); thread.start(); thread.join()"
    assert _faults("", in_thread, KEEP_FREED_MEMORY) < PAGES / 600


def test_the_largest_tensors_are_handed_back() -> None:
    assert _faults(KEEP, "work()", {}, LARGE) > PAGES / 600
