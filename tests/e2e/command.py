"""The pipeline as a user runs it: a process with arguments, an exit code and two streams."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TINY = Path(__file__).with_name("tiny.yaml")


@dataclass(frozen=True)
class Finished:
    """What a command left behind."""

    code: int
    out: str
    err: str

    def started(self) -> list[str]:
        """The steps that were executed, in order of their start."""
        lines = [line.split(":") for line in self.err.splitlines()]
        return [name for name, *rest in lines if rest and rest[0].startswith((" starting,", " resuming,"))]


def run(step: str, workdir: Path, *arguments: str, config: Path = TINY) -> Finished:
    """Run a step to its end."""
    done = subprocess.run(
        command(step, workdir, config, arguments), cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def kill_when(reached: Callable[[], bool], step: str, workdir: Path, *arguments: str) -> None:
    """Run a step, and kill it with SIGKILL as soon as `reached` says so."""
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command(step, workdir, TINY, arguments),
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        try:
            while not reached():
                if process.poll() is not None:
                    said.seek(0)
                    raise AssertionError(f"the command ended before it could be killed:\n{said.read()}")
                time.sleep(0.05)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


def command(step: str, workdir: Path, config: Path, arguments: tuple[str, ...]) -> list[str]:
    return [
        sys.executable,
        *([str(ROOT / "pipelines/full.py")] if step == "full" else ["-m", "pipelines", step]),
        "--config",
        str(config),
        f"workdir={workdir}",
        *arguments,
    ]


def environment() -> dict[str, str]:
    # what a test run sets for itself is not what a user has
    return {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
