"""A team's MLflow server as `infra/mlflow` starts it: PostgreSQL, S3, several processes that write at the same time."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow.artifacts import download_artifacts

from pipelines.tracking import champions, registry
from pipelines.tracking.client import MetricWriter, Tracking
from pipelines.tracking.promotions import ChampionChange
from tests.e2e.command import ROOT
from tests.e2e.nodes import free_port
from tests.e2e.servers import postgres, postgres_programs
from tests.s3_server import Proxy, direct

SERVE = ROOT / "infra/mlflow/serve.py"
WRITERS, VALUES = 4, 500


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed")
    with postgres(programs) as url:
        yield url


@contextmanager
def _serve(database: str, folder: Path, *arguments: str) -> Iterator[str]:
    """Start the server as a user does, wait until it answers, and end it with Ctrl-C's signal."""
    port = free_port()
    log = folder / "log"
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, SERVE, "--port", str(port), "--workers", "2", "--secrets", folder / "secrets", *arguments],
            cwd=folder, env=os.environ | {"MLFLOW_BACKEND_STORE_URI": database}, start_new_session=True,
            stdout=out, stderr=out,
        )  # fmt: skip
    try:
        for _ in range(900):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                assert server.poll() is None, log.read_text()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


@pytest.fixture(scope="module")
def tracking(database: str, _s3: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracking]:
    direct(_s3).create_bucket(Bucket="team")
    with _serve(database, tmp_path_factory.mktemp("server"), "--artifacts", "s3://team/mlflow") as uri:
        yield Tracking.open(uri, "daefr", "mlflow-artifacts:/daefr")


def _write(tracking: Tracking, run_id: str, writer: int, start: Any) -> None:
    start.wait()
    with MetricWriter(tracking, run_id, every=0.05) as metrics:
        for step in range(VALUES):
            metrics.log(step, {f"writer{writer}": float(step), "shared": float(writer)})


def test_no_metric_of_several_processes_is_lost(tracking: Tracking) -> None:
    run_id = tracking.start_run("training", "concurrent")
    context = multiprocessing.get_context("fork")
    start = context.Barrier(WRITERS)
    processes = [
        context.Process(target=_write, args=(Tracking(tracking.uri, tracking.experiment_id), run_id, writer, start))
        for writer in range(WRITERS)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * WRITERS
    for writer in range(WRITERS):
        history = tracking.client.get_metric_history(run_id, f"writer{writer}")
        assert sorted(point.step for point in history) == list(range(VALUES))
    shared = tracking.client.get_metric_history(run_id, "shared")
    assert sorted(point.value for point in shared) == sorted([0.0, 1.0, 2.0, 3.0] * VALUES)


def _promote(tracking: Tracking, model: str, version: int, start: Any, answers: Any) -> None:
    now = champions.champion_state(tracking, model)
    start.wait()
    entry = ChampionChange(
        kind="promoted", champion=version, replaces=now.champion, previous=now.champion, why="better"
    )
    answers.put((version, champions.promote(tracking, now, entry)))


def test_checkpoints_are_on_s3_and_of_two_promotions_one_wins(tracking: Tracking, _s3: Proxy, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "manifest.json").write_text("{}")
    for number in (1, 2):
        run_id = tracking.start_run("restoration", f"version {number}")
        registry.register(tracking, "restoration", checkpoint, run_id, fingerprint=str(number), tags={})
    version = registry.resolve(tracking, "models:/daefr-restoration/2")
    stored = direct(_s3).list_objects_v2(Bucket="team")["Contents"]
    assert sum(entry["Key"].endswith("checkpoint/manifest.json") for entry in stored) == 2
    assert (registry.download(tracking, version, tmp_path / "into") / "manifest.json").read_text() == "{}"

    context = multiprocessing.get_context("fork")
    for round_ in range(3):
        start, answers = context.Barrier(2), context.Queue()
        copy = Tracking(tracking.uri, tracking.experiment_id)
        processes = [
            context.Process(target=_promote, args=(copy, version.name, number, start, answers)) for number in (1, 2)
        ]
        for process in processes:
            process.start()
        told = dict(answers.get(timeout=60) for _ in processes)
        for process in processes:
            process.join(60)
        (winner,) = [number for number, won in told.items() if won]
        assert registry.aliases(tracking, version.name)["champion"] == winner
        assert len(champions.champion_state(tracking, version.name).entries) == round_ + 1


def test_elsewhere_than_on_loopback_it_asks_for_a_password(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--artifacts", str(tmp_path / "artifacts"), "--host", "0.0.0.0")
    with _serve(database, tmp_path, *arguments, "--allowed-hosts", "mlflow.lab:5000") as uri:
        assert _status(uri) == 401
        secrets = tmp_path / "secrets"
        assert {path.stat().st_mode & 0o777 for path in secrets.iterdir()} == {0o600}
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
        with pytest.raises(Exception, match=r"cannot be used: .*(401|credentials|authenticat)"):
            Tracking.open(uri, "faces", "mlflow-artifacts:/faces")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", (secrets / "admin-password").read_text())
        tracking = Tracking.open(uri, "faces", "mlflow-artifacts:/faces")
        run_id = tracking.start_run("training", "with a password")
        tracking.client.log_text(run_id, "ours", "note.txt")
        path = download_artifacts(
            run_id=run_id, artifact_path="note.txt", tracking_uri=uri, dst_path=str(tmp_path / "into")
        )
        assert Path(path).read_text() == "ours"


def _status(uri: str) -> int:
    request = urllib.request.Request(
        f"{uri}/api/2.0/mlflow/experiments/search",
        json.dumps({"max_results": 1}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def _refused(database: str | None, *arguments: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_BACKEND_STORE_URI"}
    if database:
        environment["MLFLOW_BACKEND_STORE_URI"] = database
    done = subprocess.run([sys.executable, SERVE, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_what_the_server_cannot_start_with_is_one_sentence(tmp_path: Path) -> None:
    assert "MLFLOW_BACKEND_STORE_URI" in _refused(None, "--artifacts", str(tmp_path))
    assert "--artifacts" in _refused("sqlite://")
    away = f"postgresql+psycopg2://mlflow@127.0.0.1:{free_port()}/mlflow"
    assert "127.0.0.1" in _refused(away, "--artifacts", str(tmp_path))
    here = f"sqlite:///{tmp_path}/mlflow.db"
    assert "--allowed-hosts" in _refused(here, "--artifacts", str(tmp_path), "--host", "0.0.0.0")
