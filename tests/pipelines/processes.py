"""Processes below the one that tests."""

import os
import signal
from pathlib import Path


def kill_one(title: bytes) -> bool:
    """Kill a process whose title begins with `title`, below this one; return whether there was one."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            is_wanted = path.read_bytes().startswith(title) and _is_ours(int(path.parent.name))
        except OSError:
            continue
        if is_wanted:
            os.kill(int(path.parent.name), signal.SIGKILL)
            return True
    return False


def _is_ours(process: int) -> bool:
    while process > 1 and process != os.getpid():
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return process == os.getpid()
