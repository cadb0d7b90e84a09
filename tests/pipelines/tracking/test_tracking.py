import logging
import pickle
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from daefr.errors import UserError
from pipelines.tracking.client import FAILURE, FINGERPRINT, PARENT, REVISION, MetricWriter, Tracking, flatten


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    """One database for the module: MLflow needs seconds to make one."""
    root = tmp_path_factory.mktemp("with space")
    return Tracking.open(f"sqlite:///{root}/mlflow.db", "faces", str(root / "artifacts"), revision="abc123")


def test_open_again_finds_the_experiment_and_keeps_its_artifacts(tracking: Tracking, tmp_path: Path) -> None:
    again = Tracking.open(tracking.uri, "faces", str(tmp_path))
    assert again.experiment_id == tracking.experiment_id
    location = tracking.client.get_experiment(tracking.experiment_id).artifact_location
    assert Path(location).is_absolute()
    assert not location.startswith(str(tmp_path))


OPEN = "import sys; from pipelines.tracking.client import Tracking; Tracking.open(sys.argv[1], 'faces', sys.argv[2])"


def test_a_kill_while_the_database_is_made_leaves_nothing_behind_that_is_in_the_way(tmp_path: Path) -> None:
    uri, artifacts = f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "artifacts")
    killed = subprocess.Popen([sys.executable, "-c", OPEN, uri, artifacts], stderr=subprocess.DEVNULL)
    while not any(path.stat().st_size for path in tmp_path.glob("**/*.db")):
        assert killed.poll() is None, "it makes no database"
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    assert not (tmp_path / "mlflow.db").exists(), "the first tables were just made"

    at_once = [subprocess.Popen([sys.executable, "-c", OPEN, uri, artifacts]) for _ in range(2)]
    assert [process.wait(60) for process in at_once] == [0, 0]
    assert [found.name for found in Tracking.open(uri, "faces", artifacts).client.search_experiments()] == [
        "faces",
        "Default",
    ]


def test_a_database_can_be_made_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    made = Tracking.open(f"sqlite:///{tmp_path}/mlflow.db", "faces", str(tmp_path / "artifacts"))
    assert made.client.get_experiment(made.experiment_id).name == "faces"
    assert (tmp_path / "mlflow.db").stat().st_size > 0


def test_relative_database_is_made_absolute(tracking: Tracking, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Path(tracking.uri.removeprefix("sqlite:///"))
    monkeypatch.chdir(database.parent)
    assert Tracking.open(f"sqlite:///{database.name}", "faces", "artifacts").uri == tracking.uri


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "nonsense://server", "mlruns", "sqlite:///{tmp}/text.db"])
def test_an_unusable_server_is_an_error_of_one_line(uri: str, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database, but long enough to be taken for one by its size\n" * 20)
    start = time.monotonic()
    uri = uri.format(tmp=tmp_path)
    with pytest.raises(UserError, match=rf"^.*{re.escape(uri)}.*$"):
        Tracking.open(uri, "faces", str(tmp_path))
    assert time.monotonic() - start < 10


def test_deleted_experiment_is_refused(tracking: Tracking, tmp_path: Path) -> None:
    gone = Tracking.open(tracking.uri, "gone", str(tmp_path))
    gone.client.delete_experiment(gone.experiment_id)
    with pytest.raises(UserError, match="gone"):
        Tracking.open(tracking.uri, "gone", str(tmp_path))


def test_pickled_without_its_client(tracking: Tracking) -> None:
    assert tracking.client is tracking.client
    copy = pickle.loads(pickle.dumps(tracking))
    assert copy == tracking
    assert "client" not in vars(copy)
    assert copy.client.get_experiment(copy.experiment_id).name == "faces"


def test_unfinished_run_is_resumed_and_finished_run_is_not(tracking: Tracking) -> None:
    run_id = tracking.start_run("pipeline", "resumed", params={"seed": 1})
    tracking.finish(run_id, "FAILED", "out of\nmemory")
    assert tracking.client.get_run(run_id).data.tags[FAILURE] == "out of memory"

    assert tracking.start_run("pipeline", "resumed", params={"seed": 1}, tags={"try": "2"}) == run_id
    run = tracking.client.get_run(run_id)
    assert run.info.status == "RUNNING"
    assert run.data.tags["try"] == "2"
    assert run.data.tags[REVISION] == "abc123"
    assert FAILURE not in run.data.tags

    tracking.finish(run_id, "FINISHED")
    assert tracking.client.get_run(run_id).info.status == "FINISHED"
    assert tracking.start_run("pipeline", "resumed") != run_id


def test_killed_run_is_resumed(tracking: Tracking) -> None:
    run_id = tracking.start_run("pipeline", "killed")
    assert tracking.start_run("pipeline", "killed") == run_id


def test_child_run_is_no_parent_and_follows_a_new_parent(tracking: Tracking) -> None:
    first = tracking.start_run("pipeline", "same")
    child = tracking.start_run("association", "same", parent=first)
    assert child != first
    assert tracking.start_run("pipeline", "same") == first
    second = tracking.start_run("pipeline", "other")
    assert tracking.start_run("association", "same", parent=second) == child
    tags = tracking.client.get_run(child).data.tags
    assert tags[PARENT] == second
    assert tags[FINGERPRINT] == "same"


def test_params_are_flat_cut_and_logged_once(tracking: Tracking, caplog: pytest.LogCaptureFixture) -> None:
    many = {f"p{index}": index for index in range(250)}
    params = {"stages": {"association": {"steps": 200}}, "long": "x" * 9000, "many": many}
    run_id = tracking.start_run("pipeline", "params", params=params)
    with caplog.at_level(logging.WARNING):
        tracking.start_run("pipeline", "params", params={**params, "many": {**many, "p7": 8}, "new": True})
    held = tracking.client.get_run(run_id).data.params
    assert held["stages.association.steps"] == "200"
    assert len(held["long"]) == 6000
    assert (held["many.p249"], held["many.p7"], held["new"]) == ("249", "7", "true")
    assert "many.p7" in caplog.text
    assert "long" not in caplog.text


def test_flatten_writes_values_as_json() -> None:
    nested = {"a": {"b": [1, 2.5], "c": None, "d": {}}, "e": Path("x"), "f": "text"}
    assert flatten(nested) == {"a.b": "[1, 2.5]", "a.c": "null", "a.d": "{}", "e": '"x"', "f": "text"}


def test_writer_delivers_after_an_outage(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = tracking.start_run("training", "outage")
    back = threading.Event()
    tries = []
    log_batch = tracking.client.log_batch

    def flaky(*args: Any, **kwargs: Any) -> None:
        tries.append(1)
        if not back.is_set():
            raise ConnectionError("the server is\naway")
        log_batch(*args, **kwargs)

    monkeypatch.setattr(tracking.client, "log_batch", flaky)
    writer = MetricWriter(tracking, run_id, every=0.01)
    for step in range(1200):
        writer.log(step, {"loss/total": 1.0 / (step + 1), "lr": 1e-4})
    while len(tries) < 3:
        time.sleep(0.01)
    back.set()
    writer.close()
    for name in ("loss/total", "lr"):
        history = tracking.client.get_metric_history(run_id, name)
        assert sorted(point.step for point in history) == list(range(1200))
    assert [record.getMessage().count("the server is away") for record in caplog.records] == [1], "one log per outage"


def test_close_logs_what_is_lost(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise ConnectionError("away")

    run_id = tracking.start_run("training", "lost")
    monkeypatch.setattr(tracking.client, "log_batch", away)
    writer = MetricWriter(tracking, run_id, every=0.01)
    writer.log(1, {"loss": 1.0})
    writer.image("val", 1, np.zeros((8, 8, 3), np.uint8))
    writer.close(timeout=0.2)
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.args == (run_id, tracking.uri, 1, 1)


def test_values_and_names_that_mlflow_rejects_are_skipped(tracking: Tracking, caplog: pytest.LogCaptureFixture) -> None:
    run_id = tracking.start_run("training", "nan")
    with MetricWriter(tracking, run_id) as writer:
        for step in range(3):
            writer.log(step, {"loss": float("nan"), "gan": float("inf"), "../bad": 1.0, "good": 2.0})
    assert tracking.client.get_run(run_id).data.metrics == {"good": 2.0}
    assert [record.args[0] for record in caplog.records if record.args] == ["loss", "gan", "../bad"]


def test_images_are_artifacts_that_a_resumed_run_overwrites(tracking: Tracking, tmp_path: Path) -> None:
    run_id = tracking.start_run("training", "images")
    with MetricWriter(tracking, run_id) as writer:
        for red in (0, 200):
            rgb = np.zeros((16, 24, 3), np.uint8)
            rgb[..., 0] = red
            writer.image("val/faces", 50, rgb)
            rgb[...] = 7
    listed = tracking.client.list_artifacts(run_id, "images/val/faces")
    assert [entry.path for entry in listed] == ["images/val/faces/step000050.png"]
    path = tracking.client.download_artifacts(run_id, listed[0].path, str(tmp_path))
    bgr = cv2.imread(path)
    assert bgr is not None
    assert bgr.shape == (16, 24, 3)
    assert bgr[0, 0].tolist() == [0, 0, 200]
