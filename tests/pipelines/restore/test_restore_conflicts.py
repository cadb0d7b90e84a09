"""The restoration job replaces and removes nothing but what it has recorded, in folders and on S3, as files and shards.

Workers run in this process, as what is tested is what they do to the place that they write to.
"""

import hashlib
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from daefr.errors import UserError
from daefr.faces.detector import Detector
from daefr.outputs import InTheWayError
from pipelines.chain import open_chain
from pipelines.config import load_config
from pipelines.engine import cluster
from pipelines.errors import StepFailedError
from pipelines.restore import step as restore
from pipelines.restore import stream
from pipelines.restore.ledger import Ledger, Outcome
from pipelines.restore.worker import RestoreJob, Restoring
from pipelines.storage import s3 as storage
from pipelines.storage.address import is_address
from pipelines.storage.results import Journal, Written, folder_of, open_results
from tests.daefr import foreign, tiny
from tests.daefr.photographs import Told
from tests.e2e.command import TINY
from tests.s3_server import Fault, Proxy, direct

NAMES = ("IMG_0001.jpg", "a/two.png", "three.webp")
ALIGNED = "restore.aligned=true"
RENAME = "restore.on_conflict=rename"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("model") / "checkpoint", tiny.build("restoration", seed=5)).path


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), tiny.face(np.random.default_rng(number))[:, :, ::-1])
    return tmp_path / "in"


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def restore_groups(ledger: Path, size: int, job: RestoreJob) -> Iterator[list[Outcome]]:
        worker = Restoring(job)
        for table in stream._read(ledger, size, folder_of(job.workdir, job.target)):
            for row in table.to_pylist():
                told: Any = pickle.loads(worker(row)["outcomes"])
                if isinstance(told, Exception):
                    raise told
                yield told

    monkeypatch.setattr(stream, "restore_groups", restore_groups)
    monkeypatch.setattr(cluster, "connect", lambda: None)
    monkeypatch.setattr(Detector, "load", lambda *_: Told([]))


class Target:
    """Where a job writes to: a folder, or a prefix on S3."""

    def __init__(self, place: str, folder: Path) -> None:
        self.place, self.folder = place, folder

    def fill(self, names: list[str]) -> dict[str, str]:
        if not is_address(self.place):
            return foreign.fill(Path(self.place), names)
        for name in names:
            storage.write(f"{self.place}/{name}", f"somebody's {name}".encode())
        return self.seen()

    def seen(self) -> dict[str, str]:
        if not is_address(self.place):
            return foreign.seen(Path(self.place))
        return {
            found.address.removeprefix(f"{self.place}/"): hashlib.sha256(storage.read(found.address)).hexdigest()
            for found in storage.list_objects(f"{self.place}/")
        }

    def lost(self, before: dict[str, str]) -> list[str]:
        now = self.seen()
        return [name for name, content in before.items() if now.get(name) != content]

    def read(self, name: str) -> bytes:
        if not is_address(self.place):
            return (Path(self.place) / name).read_bytes()
        return storage.read(f"{self.place}/{name}")

    def write(self, name: str, data: bytes) -> None:
        if not is_address(self.place):
            (Path(self.place) / name).write_bytes(data)
        else:
            storage.delete([f"{self.place}/{name}"])
            storage.write(f"{self.place}/{name}", data)


@pytest.fixture(params=["folder", "S3"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Target:
    if request.param == "folder":
        return Target(str(tmp_path / "out"), tmp_path)
    bucket = f"conflicts-{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:16]}"
    direct(request.getfixturevalue("s3")).create_bucket(Bucket=bucket)
    return Target(f"s3://{bucket}/deep/out", tmp_path)


@pytest.fixture
def detector(tmp_path: Path) -> str:
    """The setting that keeps the usual weights from being looked for."""
    (tmp_path / "detector.pth").touch()
    return f"restore.detector={tmp_path / 'detector.pth'}"


def _restore(target: Target, source: Path, model: Path, *overrides: str, workdir: str = "run") -> str:
    config = load_config(TINY, [f"workdir={target.folder / workdir}", f"restore.model={model}", *overrides])
    with open_chain(config, "restore") as chain:
        return chain.restore(str(source), target.place)


def _reasons(target: Target, manifest: str = restore.MANIFEST) -> dict[str, str]:
    lines = map(json.loads, target.read(manifest).splitlines())
    return {line["source"]: line.get("reason", "") for line in lines}


def test_foreign_files_under_every_name_are_kept(target: Target, crops: Path, model: Path) -> None:
    names = [name for name in foreign.names_like(NAMES) if name != restore.MANIFEST]
    if is_address(target.place):  # where every look takes a while
        names = [name for name in names if name.endswith((".png", ".jpg", ".webp"))]
    before = target.fill(names)
    with pytest.raises(StepFailedError, match="0 restored, 0 no face, 3 failed of 3"):
        _restore(target, crops, model, ALIGNED)
    for reason in _reasons(target).values():
        assert "already exists and is not recorded in" in reason
        assert "restore.on_conflict=rename" in reason
    assert target.lost(before) == []
    assert set(target.seen()) == {*before, restore.MANIFEST}

    line = _restore(target, crops, model, ALIGNED, RENAME)
    assert line.startswith("3 restored, 0 no face, 0 failed of 3")
    made = {"IMG_0001.jpg-1.png", "a/two-1.png", "three.webp-1.png"}
    assert set(target.seen()) == {*before, *made, restore.MANIFEST}
    after = target.seen()
    assert _restore(target, crops, model, ALIGNED, RENAME) == line
    assert target.seen() == after
    assert target.lost(before) == []


def test_a_foreign_manifest_is_told_before_any_work_is_done(target: Target, crops: Path, model: Path) -> None:
    before = target.fill([restore.MANIFEST])
    with pytest.raises(UserError, match=r"manifest.jsonl already exists and is not recorded in .*run"):
        _restore(target, crops, model, ALIGNED)
    assert target.seen() == before
    line = _restore(target, crops, model, ALIGNED, RENAME)
    assert line.endswith(f"{target.place}/manifest-1.jsonl")
    assert set(_reasons(target, "manifest-1.jsonl")) == set(NAMES)
    assert target.lost(before) == []


def test_photographs_without_a_face_take_no_place(target: Target, crops: Path, model: Path, detector: str) -> None:
    before = target.fill(["IMG_0001.jpg", "a/two.png", "three.webp", "three.png"])
    for more in ([], ["restore.upscale=2"]):
        with pytest.raises(StepFailedError, match="0 restored, 2 no face, 1 failed of 3"):
            _restore(target, crops, model, detector, *more)
        assert f"{target.place}/a/two.png" in _reasons(target)["a/two.png"]
        assert set(target.seen()) == {*before, "IMG_0001.jpg.png", "three.webp.png", restore.MANIFEST}
        assert target.lost(before) == []
    line = _restore(target, crops, model, detector, RENAME, "restore.format=same")
    assert line.startswith("0 restored, 3 no face, 0 failed of 3")
    assert target.read("IMG_0001-1.jpg") == (crops / "IMG_0001.jpg").read_bytes()
    assert target.lost(before) == []


def test_other_settings_replace_only_what_was_made_before(target: Target, crops: Path, model: Path) -> None:
    before = target.fill(["IMG_0001.jpg", "notes.txt"])
    _restore(target, crops, model, ALIGNED)
    first = target.seen()
    target.write("a/two.png", b"retouched")
    with pytest.raises(StepFailedError, match="2 restored, 0 no face, 1 failed"):
        _restore(target, crops, model, ALIGNED, "restore.side_by_side=true")
    assert "has been changed since it was made" in _reasons(target)["a/two.png"]
    assert target.read("a/two.png") == b"retouched"
    assert target.seen()["IMG_0001.jpg.png"] != first["IMG_0001.jpg.png"]
    assert target.lost(before) == []


def test_another_run_directory_knows_nothing_of_the_results(target: Target, crops: Path, model: Path) -> None:
    _restore(target, crops, model, ALIGNED)
    before = target.seen()
    with pytest.raises(UserError, match=r"manifest.jsonl already exists and is not recorded in .*another"):
        _restore(target, crops, model, ALIGNED, "restore.side_by_side=true", workdir="another")
    assert target.seen() == before


def test_results_of_another_place_are_not_replaced(target: Target, crops: Path, model: Path) -> None:
    _restore(target, crops, model, ALIGNED)
    before = target.seen()
    other = target.folder / "other"
    (other / "a").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        cv2.imwrite(str(other / name), tiny.face(np.random.default_rng(10 + number))[:, :, ::-1])
    with pytest.raises(UserError, match="is the result of"):
        _restore(target, other, model, ALIGNED)
    assert target.seen() == before
    line = _restore(target, other, model, ALIGNED, RENAME)
    assert line.startswith("3 restored")
    assert target.lost(before) == []


def test_shards_take_no_place(target: Target, crops: Path, model: Path) -> None:
    before = target.fill(["restored-00000001.tar", "restored-00000003.tar.bak"])
    shards = [ALIGNED, "restore.samples_per_shard=2"]
    with pytest.raises(StepFailedError, match="1 restored, 0 no face, 2 failed of 3"):
        _restore(target, crops, model, *shards)
    reasons = _reasons(target)
    assert sum(f"{target.place}/restored-00000001.tar already exists" in reason for reason in reasons.values()) == 2
    line = _restore(target, crops, model, *shards, RENAME)
    assert line.startswith("3 restored")
    made = {"restored-00000001-1.tar", "restored-00000003.tar", restore.MANIFEST}
    assert set(target.seen()) == {*before, *made}
    results = [json.loads(line)["result"] for line in target.read(restore.MANIFEST).splitlines()]
    assert sorted(result.rpartition("/")[0] for result in results) == [
        "restored-00000001-1.tar", "restored-00000001-1.tar", "restored-00000003.tar"
    ]  # fmt: skip
    after = target.seen()
    _restore(target, crops, model, *shards, "restore.side_by_side=true", RENAME)
    assert target.seen()["restored-00000003.tar"] != after["restored-00000003.tar"]
    assert target.lost(before) == []


class KilledError(BaseException):
    """What a kill is to a test."""


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_a_killed_job_wrote_is_its_own(
    target: Target, crops: Path, model: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Killed between recording and writing, or between writing and the ledger; with other settings afterwards."""
    place = type(open_results(target.place, Written(target.folder / "x"), target.folder, "stop")._place)
    create = place.create

    def killing(self: Any, name: str, data: bytes) -> None:
        if name == "a/two.png":
            if when == "after":
                create(self, name, data)
            raise KilledError
        create(self, name, data)

    monkeypatch.setattr(place, "create", killing)
    before = target.fill(["notes.txt"])
    with pytest.raises(KilledError):
        _restore(target, crops, model, ALIGNED)
    monkeypatch.setattr(place, "create", create)
    assert ("a/two.png" in target.seen()) == (when == "after")
    line = _restore(target, crops, model, ALIGNED, "restore.side_by_side=true")
    assert line.startswith("3 restored")
    assert target.lost(before) == []


def test_a_worker_knows_what_another_wrote_before_it_died(target: Target, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, target.place)
    Written(folder)
    first, second = (open_results(target.place, Journal(folder), tmp_path, "move it") for _ in range(2))
    second.write(b"x", "b.png", "b.jpg")
    first.write(b"first", "a.png", "a.jpg")
    second.write(b"second", "a.png", "a.jpg")
    assert target.read("a.png") == b"second"
    database = open_results(target.place, Written.of_place(tmp_path, target.place), tmp_path, "move it")
    database.write(b"third", "a.png", "a.jpg")
    assert target.read("a.png") == b"third"


def test_the_record_is_in_the_run_directory(target: Target, crops: Path, model: Path) -> None:
    _restore(target, crops, model, ALIGNED)
    assert set(target.seen()) == {"IMG_0001.jpg.png", "a/two.png", "three.webp.png", restore.MANIFEST}
    (step,) = (target.folder / "run" / "steps").glob("restore-*")
    assert Ledger(step / restore.LEDGER).counts()["restored"] == 3


# --- S3 alone


@pytest.fixture
def bucket(s3: Proxy, request: pytest.FixtureRequest) -> str:
    name = f"conditions-{hashlib.sha256(request.node.name.encode()).hexdigest()[:16]}"
    direct(s3).create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.mark.parametrize("size", [10, 9_000_000])
def test_an_object_is_written_only_where_there_is_none_or_the_one_that_was_seen(
    bucket: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_PART", 5 * 1024**2)
    storage.write(f"{bucket}/a", b"1" * size)
    with pytest.raises(FileExistsError):
        storage.write(f"{bucket}/a", b"2" * size)
    found = storage.describe(f"{bucket}/a")
    storage.write(f"{bucket}/a", b"3" * size, found.etag)
    with pytest.raises(FileExistsError):
        storage.write(f"{bucket}/a", b"4" * size, found.etag)
    with pytest.raises(FileExistsError):
        storage.write(f"{bucket}/b", b"4" * size, found.etag)
    assert storage.read(f"{bucket}/a") == b"3" * size
    with pytest.raises(FileNotFoundError):
        storage.write("s3://there-is-no-such-bucket/a", b"1")


@pytest.mark.parametrize("fault", ["500", "503", "lose", "cut"])
def test_a_lost_answer_is_no_conflict(s3: Proxy, bucket: str, fault: Fault) -> None:
    s3.fail([fault], lambda method, _: method == "PUT")
    storage.write(f"{bucket}/a", b"content")
    assert storage.read(f"{bucket}/a") == b"content"


def test_a_store_without_conditions_is_looked_at_first(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put = storage._put

    def without(bucket: str, key: str, data: bytes, condition: dict[str, str]) -> None:
        if condition:
            answer = {"Error": {"Code": "NotImplemented"}, "ResponseMetadata": {"HTTPStatusCode": 501}}
            raise storage.ClientError(answer, "PutObject")
        put(bucket, key, data, condition)

    monkeypatch.setattr(storage, "_put", without)
    storage.write(f"{bucket}/a", b"1")
    results = open_results(bucket, Written(tmp_path), tmp_path, "move it")
    with pytest.raises(InTheWayError):
        results.write(b"2", "a", "source")
    assert storage.read(f"{bucket}/a") == b"1"
