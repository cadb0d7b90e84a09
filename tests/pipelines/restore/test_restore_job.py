"""Restoring many images in a real Ray: each is accounted for, whatever dies, and the results are the command's."""

import json
import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import ray

from daefr.__main__ import main as daefr
from daefr.errors import UserError
from daefr.images import encode_png
from daefr.outputs import RECORD
from pipelines.chain import open_chain
from pipelines.config import load_config
from pipelines.engine.run import open_tracking, open_workdir
from pipelines.errors import StepFailedError
from pipelines.restore import step as restore
from pipelines.restore import stream
from pipelines.restore.ledger import Input
from pipelines.restore.worker import Restoring
from pipelines.storage.s3 import list_objects, read
from pipelines.tracking.registry import CHAMPION, move_alias, register
from tests.daefr import tiny
from tests.daefr.photographs import WEIGHTS, needs_detector, photograph
from tests.e2e.command import TINY, kill_when
from tests.pipelines.processes import kill_one
from tests.s3_server import Proxy, direct

CROPS = 100


pytestmark = pytest.mark.usefixtures("_s3", "one_cluster")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("model") / "checkpoint", tiny.build("restoration", seed=5)).path


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a hundred files at two depths, of which one is damaged and one no crop."""
    folder = tmp_path_factory.mktemp("crops")
    (folder / "deep").mkdir()
    rng = np.random.default_rng(0)
    for number in range(CROPS - 2):
        name = f"deep/{number:03d}.jpg" if number % 3 and number % 10 != 9 else f"{number:03d}.png"
        side = 16 + number % 9
        face = tiny.face(rng, side)[:, :, ::-1]
        if number % 10 == 9:  # 16 bits, and in part transparent
            face = np.dstack([face, np.arange(side * side).reshape(side, side) % 256]).astype(np.uint16) * 257
        cv2.imwrite(str(folder / name), face)
    (folder / "damaged.png").write_bytes(encode_png(tiny.face(rng))[:100])
    (folder / "oblong.png").write_bytes(encode_png(tiny.face(rng, 16)[:9]))
    return folder


@pytest.fixture(scope="module")
def of_the_command(crops: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the command makes of the crops."""
    out = tmp_path_factory.mktemp("command")
    daefr(["restore", str(crops), str(out), "--model", str(model), "--aligned", "--device", "cpu"])
    return _files(out)


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (RECORD, restore.MANIFEST)
    }


def _restore(workdir: Path, source: str | Path, target: str | Path, model: str | Path, *overrides: str) -> list[str]:
    config = load_config(TINY, [f"workdir={workdir}", f"restore.model={model}", *overrides])
    with open_chain(config, "restore") as chain:
        return [chain.restore(str(source), str(target))]


def _lines(out: Path) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in (out / restore.MANIFEST).read_text().splitlines()]
    by_source = {line["source"]: line for line in lines}
    assert len(by_source) == len(lines), "no input is told of twice"
    return by_source


def test_a_hundred_images_are_accounted_for_although_a_worker_is_killed(
    crops: Path, model: Path, of_the_command: dict[str, bytes], tmp_path: Path
) -> None:
    out, killed = tmp_path / "out", list[bool]()

    def kill() -> None:
        while len(list(out.rglob("*.png"))) < 20:
            time.sleep(0.01)
        killed.append(kill_one(b"ray::MapWorker("))

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with pytest.raises(StepFailedError, match=f"98 restored, 0 no face, 2 failed of {CROPS}: .*manifest.jsonl"):
        _restore(tmp_path / "run", crops, out, model, "restore.aligned=true", "compute.restore.batch_size=3")
    assert killed == [True]
    lines = _lines(out)
    assert Counter(line["status"] for line in lines.values()) == {"restored": 98, "failed": 2}
    assert lines["damaged.png"]["reason"].startswith("damaged: ")
    assert lines["oblong.png"]["reason"].startswith("not square: 16x9 pixels")
    assert {line["result"] for line in lines.values() if line["status"] == "restored"} == set(of_the_command)
    assert _files(out) == of_the_command, "byte for byte, and nothing else"

    # the damaged one is mended, the oblong one is gone: only what is new is done
    before = {name: (out / name).stat().st_mtime_ns for name in of_the_command if name != "003.png"}
    damaged = (crops / "damaged.png").read_bytes()
    (crops / "damaged.png").write_bytes((crops / "000.png").read_bytes())
    (crops / "oblong.png").rename(tmp_path / "oblong.png")
    try:
        again = _restore(tmp_path / "run", crops, out, model, "restore.aligned=true", "compute.restore.batch_size=3")
        kept = _restore(tmp_path / "run", crops, out, model, "restore.aligned=true")
        (out / "003.png").unlink()
        mended = _restore(tmp_path / "run", crops, out, model, "restore.aligned=true")
    finally:
        (tmp_path / "oblong.png").rename(crops / "oblong.png")
        (crops / "damaged.png").write_bytes(damaged)
    assert again == kept == mended == [f"99 restored, 0 no face, 0 failed of 99: {out}/manifest.jsonl"]
    assert (out / "damaged.png").read_bytes() == (out / "000.png").read_bytes()
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert (out / "003.png").read_bytes() == of_the_command["003.png"]


def test_a_killed_job_goes_on(crops: Path, model: Path, of_the_command: dict[str, bytes], tmp_path: Path) -> None:
    out, run = tmp_path / "out", tmp_path / "run"
    arguments = [str(crops), str(out), "--model", str(model), "--aligned", "compute.restore.batch_size=2"]
    kill_when(lambda: len(list(out.rglob("*.png"))) > 39, "restore", run, *arguments)
    done = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    with pytest.raises(StepFailedError, match="98 restored"):
        _restore(run, crops, out, model, "restore.aligned=true", "compute.restore.batch_size=2")
    lines = _lines(out)
    assert len(lines) == CROPS
    assert len(done) < len(of_the_command)
    # those that were in flight, whose results were not recorded yet, are done again
    again = [path for path, stamp in done.items() if path.stat().st_mtime_ns != stamp]
    assert len(again) < len(done)
    files = _files(out)
    assert {name: files[name] for name in of_the_command} == of_the_command
    assert {Path(name).suffix for name in set(files) - set(of_the_command)} <= {".tmp"}


class Poisoned(Restoring):
    """A worker that dies of one of the images, as by a decoder that crashes."""

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        group: list[Input] = ray.cloudpickle.loads(row["group"])
        if any(given.file.name == "003.png" for given in group):
            os._exit(1)
        return super().__call__(row)


def test_what_kills_every_worker_fails_alone(
    crops: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray.cloudpickle.register_pickle_by_value(__import__(__name__, fromlist=["_"]))  # workers do not have the tests
    monkeypatch.setattr(stream, "Restoring", Poisoned)
    few = tmp_path / "few"
    few.mkdir()
    for number in (0, 3, 6, 9):
        (few / f"{number:03d}.png").write_bytes((crops / f"{number:03d}.png").read_bytes())
    with pytest.raises(StepFailedError, match="3 restored, 0 no face, 1 failed"):
        _restore(tmp_path / "run", few, tmp_path / "out", model, "restore.aligned=true")
    assert _lines(tmp_path / "out")["003.png"]["reason"] == "every worker that was given it died"


def test_from_shards_and_into_shards_on_s3(
    s3: Proxy, crops: Path, model: Path, of_the_command: dict[str, bytes], tmp_path: Path
) -> None:
    client = direct(s3)
    client.create_bucket(Bucket="restored")
    for name in list(of_the_command)[:7]:
        source = next(crops.glob(f"{Path(name).parent}/{Path(name).name.partition('.')[0]}.*"))
        client.upload_file(str(source), "restored", f"in/{name}")
    s3.fail(["503", "cut", "500"], lambda method, path: "/in/" in path or method == "PUT")
    overrides = ["restore.aligned=true", "restore.samples_per_shard=3"]
    (line,) = _restore(tmp_path / "run", "s3://restored/in", "s3://restored/out/", model, *overrides)
    assert line == "7 restored, 0 no face, 0 failed of 7: s3://restored/out/manifest.jsonl"
    assert not s3.left
    for found in list_objects("s3://restored/out/"):
        (tmp_path / found.address.rpartition("/")[2]).write_bytes(read(found.address))
    shards = sorted(tmp_path.glob("*.tar"))
    assert [shard.name for shard in shards] == [f"restored-{first:08d}.tar" for first in (1, 4, 7)]

    # the shards are shards like others: what is in them can be restored again, into files
    again = _restore(tmp_path / "run", tmp_path / shards[0].name, tmp_path / "again", model, "restore.aligned=true")
    assert again[0].startswith("3 restored")
    assert set(_files(tmp_path / "again")) == {f"{shards[0].name}/{number:08d}.png" for number in (1, 2, 3)}
    lines = [json.loads(line) for line in (tmp_path / restore.MANIFEST).read_text().splitlines()]
    assert {line["result"].rpartition("/")[0] for line in lines} == {shard.name for shard in shards}


@needs_detector
def test_photographs_with_the_champion_are_restored_or_copied(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    cv2.imwrite(str(source / "face.jpg"), photograph(side=300, zoom=0.4)[0][:, :, ::-1])
    cv2.imwrite(str(source / "sky.jpg"), np.full((90, 120, 3), 200, np.uint8))
    (source / "Thumbs.db").write_text("no image")
    (source / "gone.jpg").symlink_to(tmp_path / "nowhere")
    config = load_config(TINY, [f"workdir={tmp_path / 'run'}"])
    tracking = open_tracking(config.tracking, open_workdir(config.workdir), 0)
    run_id = tracking.start_run("registration", "fingerprint")
    version = register(tracking, "restoration", model, run_id, fingerprint="f", tags={})
    with pytest.raises(UserError, match="champion"):
        _restore(tmp_path / "run", source, tmp_path / "out", "models:/daefr-restoration@champion")
    move_alias(tracking, version.name, CHAMPION, version.number)
    overrides = [f"restore.detector={WEIGHTS}"]
    (line,) = _restore(tmp_path / "run", source, tmp_path / "out", "models:/daefr-restoration@champion", *overrides)
    assert line.startswith("1 restored, 1 no face, 0 failed of 2, 1 other file, 1 link passed over: ")
    assert _lines(tmp_path / "out")["sky.jpg"] == {
        "source": "sky.jpg", "status": "no face", "result": "sky.jpg.png", "faces": 0
    }  # fmt: skip
    arguments = ["--model", str(model), "--detector", str(WEIGHTS), "--device", "cpu"]
    assert daefr(["restore", str(source), str(tmp_path / "command"), *arguments]) == 0
    assert _files(tmp_path / "out") == _files(tmp_path / "command")
    overrides += ["restore.format=same", "restore.metadata=basic"]
    _restore(tmp_path / "run", source, tmp_path / "same", str(model), *overrides)
    arguments += ["--format", "same", "--metadata", "basic"]
    assert daefr(["restore", str(source), str(tmp_path / "command same"), *arguments]) == 0
    assert _files(tmp_path / "same") == _files(tmp_path / "command same")
    assert _files(tmp_path / "same")["sky.jpg"] == (source / "sky.jpg").read_bytes()


@pytest.mark.parametrize(
    "mistake",
    [
        ("nowhere", "out", ["restore.aligned=true"], "IN=.*nowhere is not a folder"),
        ("CROPS", __file__, [], "test_restore_job.py is a file: give a folder"),
        ("CROPS", "CROPS/out", [], "lie within one another"),
        ("CROPS", "s3://Not_A_Bucket", [], "OUT: an S3 address is s3://bucket/prefix"),
        ("CROPS", "/proc/out", ["restore.aligned=true"], "/proc/out/.* cannot be written"),
        ("CROPS", "out", ["restore.model=nothing"], "no model nothing"),
        ("CROPS", "out", ["restore.detector=nothing"], "no weights of a face detector at .*nothing"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    crops: Path, model: Path, tmp_path: Path, mistake: tuple[str, str, list[str], str]
) -> None:
    *places, overrides, told = mistake
    source, target = (
        place if place.startswith("s3:") else tmp_path / place.replace("CROPS", str(crops)) for place in places
    )
    with pytest.raises(UserError, match=told) as caught:
        _restore(tmp_path / "run", source, target, model, *overrides)
    assert "\n" not in str(caught.value)
