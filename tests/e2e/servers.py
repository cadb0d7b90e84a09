"""The servers of a team's MLflow: PostgreSQL for its records, and the tracking server itself, on loopback."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.e2e.nodes import free_port

NOBODY = "nobody"


def postgres_programs() -> Path | None:
    """Return the folder of PostgreSQL's programs, None where it is not installed."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).parent
    return next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)


@contextmanager
def postgres(programs: Path) -> Iterator[str]:
    """Run a new database while the block runs; yields its URL. It does not run as root, so then as nobody."""
    files = Path(tempfile.mkdtemp(prefix="postgres-"))
    as_user = []
    if os.geteuid() == 0:
        shutil.chown(files, NOBODY)
        as_user = ["setpriv", f"--reuid={NOBODY}", "--clear-groups"]
    port = free_port()
    subprocess.run(
        [*as_user, programs / "initdb", "-D", files / "data", "-U", "mlflow", "--auth=trust", "--no-sync"],
        cwd=files, check=True, capture_output=True,
    )  # fmt: skip
    server = subprocess.Popen(
        [*as_user, programs / "postgres", "-D", files / "data", "-p", str(port), "-h", "127.0.0.1",
         "-k", files, "-c", "fsync=off"],
        cwd=files, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _wait_for(lambda: _answers_postgres(port), server, "PostgreSQL")
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # ends sessions, then itself
        server.wait(20)
        shutil.rmtree(files, ignore_errors=True)


def _answers_postgres(port: int) -> bool:
    import psycopg2

    try:
        psycopg2.connect(host="127.0.0.1", port=port, user="mlflow", dbname="postgres").close()
    except psycopg2.OperationalError:
        return False
    return True


class TrackingServer:
    """An MLflow server that can be stopped and started again at the same address."""

    def __init__(self, database: str, artifacts: str, variables: Mapping[str, str], folder: Path) -> None:
        """Keep what it takes; nothing is started yet."""
        self._port = free_port()
        self._command = [
            sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database,
            "--artifacts-destination", artifacts, "--host", "127.0.0.1", "--port", str(self._port), "--workers", "1",
        ]  # fmt: skip
        self._environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | dict(variables)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(
            self._command, cwd=self._folder, env=self._environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        _wait_for(self._answers, self._process, "the MLflow server")

    def stop(self) -> None:
        """Take it away with all its processes."""
        if self._process is not None:
            with suppress(ProcessLookupError):  # it never started
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def _wait_for(ready: object, process: subprocess.Popen[bytes], name: str) -> None:
    assert callable(ready)
    for _ in range(600):
        if ready():
            return
        assert process.poll() is None, f"{name} did not start"
        time.sleep(0.2)
    raise AssertionError(f"{name} does not answer")
