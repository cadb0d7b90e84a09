"""A run directory is moved or copied, and may have any name: MLflow's file finds its artifacts beside it."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.artifacts import download_artifacts

from daefr.errors import UserError
from pipelines.engine.run import DATABASE, open_tracking
from pipelines.promote.lineage import Ancestor
from pipelines.tracking import registry
from pipelines.tracking.client import Tracking
from pipelines.tracking.database import FOLDER, local_path, sqlite_path, sqlite_uri
from pipelines.tracking.settings import TrackingConfig

NAMES = [
    "a%20b",
    "a?b=c",
    "a#b",
    "%",
    "a%2Fb",
    "a:",
    "with 'quotes\" and $X",
    "ü %zz",
    "[x]*",
    "a\\b",
    "new\nline",
    "-",
]


def _open(folder: Path, **settings: str) -> Tracking:
    return open_tracking(TrackingConfig(**settings), folder.resolve(), 0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with a registered checkpoint and an artifact; each test works on a copy."""
    folder = tmp_path_factory.mktemp("made") / "first"
    tracking = _open(folder)
    run_id = tracking.start_run("hq_codebook", "one")
    tracking.client.log_text(run_id, "before", "said.txt")
    checkpoint = folder / "steps/hq_codebook/checkpoint"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    registry.register(tracking, "hq_codebook", checkpoint, run_id, fingerprint="one", tags={})
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "copy")


def _check(folder: Path, tracking: Tracking, scratch: Path) -> None:
    """Check that everything is found, and written, in the folder."""
    version = registry.resolve(tracking, "models:/daefr-hq-codebook@candidate")
    (artifact,) = [Path(download_artifacts(run_id=version.run_id, artifact_path="said.txt", tracking_uri=tracking.uri))]
    assert artifact.read_text() == "before"
    place = local_path(version.source)
    assert place is not None and place.is_relative_to(folder)
    assert (registry.download(tracking, version, scratch) / "manifest.json").is_file()
    run_id = tracking.start_run("next", f"next {time.monotonic()}")
    tracking.client.log_text(run_id, "after", "new.txt")
    new = local_path(tracking.client.get_run(run_id).info.artifact_uri)
    assert new is not None and new.is_relative_to(folder)
    assert (new / "new.txt").read_text() == "after"


@pytest.mark.skipif(sys.platform == "win32", reason="names that other systems do not allow")
def test_it_may_have_any_name_and_get_another(copy: Path, tmp_path: Path) -> None:
    for number, name in enumerate(NAMES):
        outer = tmp_path / str(number)
        outer.mkdir()
        folder = copy.rename(outer / name)
        start = time.monotonic()
        _check(folder, _open(folder), tmp_path / "into")
        assert time.monotonic() - start < 60, "MLflow would retry for minutes"
        assert [each.name for each in outer.iterdir()] == [name]
        copy = folder


def test_a_name_that_mlflow_cannot_write_down_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"n\xff")
    with pytest.raises(UserError, match="not UTF-8"):
        _open(folder)


def test_a_copy_has_its_own_artifacts(made: Path, copy: Path, tmp_path: Path) -> None:
    before = {path for path in made.rglob("*") if path.is_file()}
    _check(copy, _open(copy), tmp_path / "into")
    assert {path for path in made.rglob("*") if path.is_file()} == before
    _check(made, _open(made), tmp_path / "into")


def test_a_directory_of_an_earlier_version_can_be_moved_too(copy: Path, made: Path, tmp_path: Path) -> None:
    plain, address = str(made), made.as_uri()
    with closing(sqlite3.connect(copy / DATABASE)) as database, database:
        database.execute("DELETE FROM experiment_tags WHERE key = ?", [FOLDER])
        for table, column in (
            ("experiments", "artifact_location"),
            ("runs", "artifact_uri"),
            ("model_versions", "source"),
        ):
            database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", [address, plain])
    _check(copy, _open(copy), tmp_path / "into")
    moved = copy.rename(tmp_path / "again %")
    _check(moved, _open(moved), tmp_path / "into")


def test_the_same_directory_under_another_name_is_not_moved(copy: Path, tmp_path: Path) -> None:
    _open(copy)
    (tmp_path / "link").symlink_to(copy)
    before = (copy / DATABASE).read_bytes()
    assert _open(tmp_path / "link") == _open(copy)
    assert (copy / DATABASE).read_bytes() == before


def test_artifacts_that_are_elsewhere_stay_there(copy: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "artifacts"
    there = _open(copy, experiment_name="other", artifact_location=str(elsewhere))
    there.client.log_text(there.start_run("other", "other"), "text", "text.txt")
    moved = copy.rename(tmp_path / "moved")
    run_id = _open(moved, experiment_name="other").start_run("other", "other")
    client = _open(moved, experiment_name="other").client
    assert local_path(client.get_run(run_id).info.artifact_uri).is_relative_to(elsewhere)  # type: ignore[union-attr]
    _check(moved, _open(moved), tmp_path / "into")


OPEN = "import sys; from pipelines.tracking.client import Tracking; Tracking.open(sys.argv[1], 'daefr', sys.argv[2]);"
KILLED = """
import os
from pipelines.tracking import database
move = database._move
database._move = lambda *given: (move(*given), os.kill(os.getpid(), 9))
"""


def test_a_kill_leaves_it_as_it_was_and_processes_may_open_it_at_once(copy: Path, tmp_path: Path) -> None:
    arguments = [sqlite_uri(copy / DATABASE), str(copy / "artifacts")]
    before = list(sqlite3.connect(copy / DATABASE).execute("SELECT artifact_uri FROM runs"))
    killed = subprocess.run([sys.executable, "-c", KILLED + OPEN, *arguments], check=False)
    assert killed.returncode == -9
    assert list(sqlite3.connect(copy / DATABASE).execute("SELECT artifact_uri FROM runs")) == before
    together = [subprocess.Popen([sys.executable, "-c", OPEN, *arguments]) for _ in range(3)]
    assert [process.wait(120) for process in together] == [0, 0, 0]
    _check(copy, _open(copy), tmp_path / "into")


@pytest.mark.parametrize("name", NAMES)
def test_a_sqlite_address_stands_for_its_file(name: str) -> None:
    assert sqlite_path(sqlite_uri(Path("/x") / name / DATABASE)) == Path("/x") / name / DATABASE
    assert sqlite_path("http://server/%20") is None


def test_lineage_that_is_not_there_is_told_from_lineage_that_was_not_recorded(copy: Path) -> None:
    tracking = _open(copy)
    version = registry.resolve(tracking, "models:/daefr-hq-codebook/1")
    assert Ancestor(tracking, version).recorded is None
    shutil.rmtree(copy / "artifacts")
    with pytest.raises(UserError, match=r"artifacts of models:/daefr-hq-codebook/1 are not in"):
        Ancestor(tracking, version)
