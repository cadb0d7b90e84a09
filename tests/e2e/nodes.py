"""Nodes of a Ray cluster as processes of this machine, sharing neither ports nor files with any other cluster on it."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

BIN = Path(sys.executable).parent


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Node:
    """A machine of the cluster: what `ray start --block` runs."""

    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """End it as a service manager does: SIGTERM, and SIGKILL to what is left."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        self.kill()

    def kill(self) -> None:
        """Take it away at once: SIGKILL to its processes."""
        for process in [self.process.pid, *children(self.process.pid)]:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


@dataclass
class Nodes:
    """A cluster with token authentication; `variables` is what a client of it needs in its environment."""

    gcs: int
    dashboard: int
    variables: Mapping[str, str]
    files: str
    environment: Mapping[str, str]
    head: Node | None = None
    workers: list[Node] = field(default_factory=list)

    @property
    def jobs(self) -> str:
        """Where jobs are submitted."""
        return f"http://127.0.0.1:{self.dashboard}"

    @property
    def address(self) -> str:
        """What RAY_ADDRESS is for a driver that is no job."""
        return f"127.0.0.1:{self.gcs}"

    def start_head(self, cpus: int) -> None:
        """Start the head, and wait until it takes a job."""
        self.head = self._start(
            cpus,
            "--head", f"--port={self.gcs}", "--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard}",
            f"--ray-client-server-port={free_port()}",
        )  # fmt: skip
        assert self._comes_up(self.head, self._takes_a_job), "the head does not come up"

    def add(self, cpus: int) -> Node:
        """Start one more node, and wait until it has joined. Ray ends a node whose agents take more than 15 seconds to
        start; like whatever manages a cluster's nodes, this starts it again."""
        before = self._joined()
        for _ in range(3):
            node = self._start(cpus, f"--address={self.address}")
            if self._comes_up(node, lambda: bool(self._joined() - before)):
                self.workers.append(node)
                return node
            node.kill()
        raise AssertionError("a node does not come up")

    def _start(self, cpus: int, *options: str) -> Node:
        # files of its own, as a machine has: to set up a job's working directory, a node deletes what is there
        files = tempfile.mkdtemp(prefix="", dir=self.files)
        common = [f"--num-cpus={cpus}", "--object-store-memory=200000000", "--disable-usage-stats"]
        own = [f"--temp-dir={files}", f"--dashboard-agent-listen-port={free_port()}"]
        command = [BIN / "ray", "start", "--block", *common, *own, *options]
        quiet = subprocess.DEVNULL
        return Node(
            subprocess.Popen(
                command, cwd=self.files, env=self.environment, stdout=quiet, stderr=quiet, start_new_session=True
            )
        )

    def _takes_a_job(self) -> bool:
        """Tell more than an open port does: the agent that runs jobs must have reported."""
        return bool(self._ask("api/jobs/", b'{"entrypoint": "true"}'))

    def _joined(self) -> set[str]:
        nodes = json.loads(self._ask("nodes?view=summary"))["data"]["summary"]
        return {node["raylet"]["nodeId"] for node in nodes if "nodeId" in node["raylet"]}

    def _ask(self, path: str, body: bytes | None = None) -> bytes:
        headers = {"Content-Type": "application/json"} | self._token()
        with urllib.request.urlopen(urllib.request.Request(f"{self.jobs}/{path}", body, headers), timeout=10) as answer:
            return bytes(answer.read())

    def _comes_up(self, node: Node, is_there: Callable[[], bool]) -> bool:
        for _ in range(120):
            with suppress(OSError):  # a head that is not there yet, or is busy
                if is_there():
                    return True
            if node.process.poll() is not None:
                return False
            time.sleep(1)
        return False

    def _token(self) -> dict[str, str]:
        path = self.variables.get("RAY_AUTH_TOKEN_PATH")
        return {"Authorization": f"Bearer {Path(path).read_text()}"} if path else {}

    def submit(self, project: Path, *arguments: str, runtime_env: str = "{}") -> subprocess.CompletedProcess[str]:
        """Run `ray job submit` in a folder that becomes the job's working directory."""
        command = [BIN / "ray", "job", "submit", "--address", self.jobs, "--working-dir", ".",
                   "--runtime-env-json", runtime_env, "--", "python", *arguments]  # fmt: skip
        own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment = own | dict(self.variables)
        return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=900)


@contextmanager
def start_cluster(cpus: int, token: bool = True, environment: Mapping[str, str] | None = None) -> Iterator[Nodes]:
    """Run a cluster of one head while the block runs; more nodes can be added."""
    files = tempfile.mkdtemp(prefix="ray-")  # a socket's path may have 107 characters, so not below pytest's
    variables = {"RAY_AUTH_MODE": "disabled"}
    if token:
        path = Path(files) / "token"
        path.write_text(secrets.token_hex(32))
        path.chmod(0o600)
        variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}
    own = {
        name: value
        for name, value in os.environ.items()
        if name != "PYTHONPATH" and not name.startswith(("RAY_", "AWS_", "MLFLOW_"))
    }
    # a job's python is the first that its node finds
    path_first = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    nodes = Nodes(free_port(), free_port(), variables, files, own | path_first | variables | dict(environment or {}))
    try:
        nodes.start_head(cpus)
        yield nodes
    finally:
        for node in [*nodes.workers, nodes.head]:
            if node and node.process.poll() is None:
                node.stop()
        shutil.rmtree(files, ignore_errors=True)


def children(process: int) -> list[int]:
    """Return the descendants of a process that are alive."""
    parents: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents.setdefault(parent, []).append(int(status.parent.name))
    found: list[int] = []
    waiting = [process]
    while waiting:
        mine = parents.get(waiting.pop(), [])
        found += mine
        waiting += mine
    return found


def training_processes(process: int) -> list[int]:
    """Return the descendants of a process that are workers of a training."""
    found = []
    for child in children(process):
        try:
            title = Path(f"/proc/{child}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if title.startswith(b"ray::RayTrainWorker"):
            found.append(child)
    return found
