"""Checkpoints of a training on its way, in a folder and on a real S3 server, with all that can befall them."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from unittest.mock import Mock

import pytest
import torch

from daefr.checkpoint import MANIFEST, MODEL, TRAINER, save_checkpoint
from daefr.errors import UserError
from pipelines.storage import tree
from pipelines.storage.s3 import StorageError
from pipelines.train.checkpoints import METRICS, Checkpoints, checkpoint_name
from tests.daefr import tiny
from tests.s3_server import Proxy, direct


@pytest.fixture(params=["folder", "s3"])
def checkpoints(request: pytest.FixtureRequest, tmp_path: Path, s3: Proxy) -> Checkpoints:
    if request.param == "folder":
        return Checkpoints(str(tmp_path / "ray"))
    bucket = f"test-{abs(hash(request.node.name)):x}"
    direct(s3).create_bucket(Bucket=bucket)
    return Checkpoints(f"s3://{bucket}/steps/ray")


def _put(checkpoints: Checkpoints, folder: Path, step: int, loss: float | None = None) -> None:
    source = folder / f"made-{step}"
    save_checkpoint(source, "hq_codebook", tiny.NETWORK, {"weight": torch.full((4,), float(step))}, {"step": step})
    (source / METRICS).write_text(json.dumps({} if loss is None else {"validation_loss": loss}))
    checkpoints.put(source, checkpoint_name(step))


def _newest(checkpoints: Checkpoints, last_step: int = 100) -> tuple[int | None, list[str]]:
    """Return the step of the newest checkpoint, and the log."""
    log = list[str]()
    with checkpoints.newest(log.append, last_step) as found:
        if found is None:
            return None, log
        assert found[1].tensors()["weight"].tolist() == [float(found[1].trainer()["step"])] * 4
        return int(found[1].trainer()["step"]), log


def _damage(checkpoints: Checkpoints, step: int, file: str, tmp_path: Path) -> None:
    (tmp_path / "damaged").write_bytes(b"noise")
    tree.put(tmp_path / "damaged", checkpoints.location, f"{checkpoint_name(step)}/{file}")


def test_training_resumes_from_the_newest_checkpoint(checkpoints: Checkpoints, tmp_path: Path) -> None:
    assert _newest(checkpoints) == (None, [])
    for step in (4, 8, 12):
        _put(checkpoints, tmp_path, step)
    assert _newest(checkpoints) == (12, [])
    assert checkpoints.names() == [checkpoint_name(step) for step in (4, 8, 12)]
    assert _newest(checkpoints, last_step=11) == (8, []), "later ones are of a longer training"
    assert _newest(checkpoints, last_step=3) == (None, [])


@pytest.mark.parametrize("file", [MODEL, TRAINER, MANIFEST])
def test_damaged_checkpoints_are_logged_and_skipped(checkpoints: Checkpoints, tmp_path: Path, file: str) -> None:
    for step in (4, 8):
        _put(checkpoints, tmp_path, step)
    _damage(checkpoints, 8, file, tmp_path)
    step, (line,) = _newest(checkpoints)
    assert step == 4
    assert checkpoint_name(8) in line
    with pytest.raises(UserError, match=checkpoint_name(8)), checkpoints.open(checkpoint_name(8)):
        pass
    _damage(checkpoints, 4, file, tmp_path)
    with pytest.raises(UserError, match=re.escape(checkpoints.location)):
        _newest(checkpoints)
    _put(checkpoints, tmp_path / "again", 8)
    assert _newest(checkpoints) == (8, [])


def test_incomplete_checkpoints_are_ignored(checkpoints: Checkpoints, tmp_path: Path) -> None:
    _put(checkpoints, tmp_path, 4)
    _damage(checkpoints, 8, MODEL, tmp_path)
    assert _newest(checkpoints) == (4, [])


def test_the_last_ones_and_the_best_are_kept(checkpoints: Checkpoints, tmp_path: Path) -> None:
    for step, loss in ((4, 0.5), (8, 0.2), (12, None), (16, 0.3), (20, None), (24, None)):
        _put(checkpoints, tmp_path, step, loss)
        checkpoints.prune(keep=2, step=step)
    assert checkpoints.names() == [checkpoint_name(step) for step in (8, 20, 24)]
    assert checkpoints.best() == checkpoint_name(8)
    checkpoints.prune(keep=1, step=22)
    assert checkpoints.names() == [checkpoint_name(step) for step in (8, 20, 24)]
    for _ in range(2):
        checkpoints.keep_only(20)
        assert checkpoints.names() == [checkpoint_name(step) for step in (20, 24)]


def test_the_ranks_of_a_machine_download_a_checkpoint_once(
    s3: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    direct(s3).create_bucket(Bucket="together")
    checkpoints = Checkpoints("s3://together/ray")
    _put(checkpoints, tmp_path, 4)

    def resume(opened: Barrier) -> float:
        with checkpoints.open(checkpoint_name(4)) as found:
            opened.wait()
            return float(found.tensors()["weight"][0])

    for ranks in (1, 4):
        s3.fail([])
        opened = Barrier(ranks)
        with ThreadPoolExecutor(ranks) as pool:
            assert list(pool.map(resume, [opened] * ranks)) == [4.0] * ranks
        assert len([path for method, path in s3.requests if method == "GET" and path.endswith(MODEL)]) == 1
        assert not list(tmp_path.glob("daefr-*/*/")), "the last one deletes it"


def test_a_download_that_failed_is_no_download(s3: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("time.sleep", Mock())
    direct(s3).create_bucket(Bucket="broken")
    checkpoints = Checkpoints("s3://broken/ray")
    _put(checkpoints, tmp_path, 4)
    s3.fail(["503"] * 20, lambda method, path: method == "GET" and MODEL in path)
    with pytest.raises(StorageError), checkpoints.open(checkpoint_name(4)):
        pass
    s3.fail([])
    assert _newest(checkpoints) == (4, [])


def test_what_a_killed_upload_left_is_dropped(s3: Proxy, tmp_path: Path) -> None:
    client = direct(s3)
    client.create_bucket(Bucket="parts")
    checkpoints = Checkpoints("s3://parts/ray")
    _put(checkpoints, tmp_path, 4)
    client.create_multipart_upload(Bucket="parts", Key=f"ray/{checkpoint_name(8)}/{MODEL}")
    client.create_multipart_upload(Bucket="parts", Key=f"ray-of-another/{MODEL}")
    assert _newest(checkpoints) == (4, [])
    left = client.list_multipart_uploads(Bucket="parts")["Uploads"]
    assert [upload["Key"] for upload in left] == [f"ray-of-another/{MODEL}"]


def test_a_store_that_fails_for_a_moment_is_asked_again(s3: Proxy, tmp_path: Path) -> None:
    direct(s3).create_bucket(Bucket="moment")
    checkpoints = Checkpoints("s3://moment/ray")
    s3.fail(["503", "refuse", "500", "lose"], lambda method, _: method == "PUT")
    _put(checkpoints, tmp_path, 4)
    assert not s3.left
    assert _newest(checkpoints) == (4, [])


def test_a_store_that_stays_away_leaves_the_checkpoint_before(
    s3: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct(s3).create_bucket(Bucket="away")
    checkpoints = Checkpoints("s3://away/ray")
    _put(checkpoints, tmp_path, 4)
    monkeypatch.setattr("time.sleep", Mock())
    s3.fail(["503"] * 20, lambda method, path: method == "PUT" and MODEL in path)
    with pytest.raises(StorageError, match="S3 still answers 503"):
        _put(checkpoints, tmp_path, 8)
    s3.fail([])
    assert _newest(checkpoints) == (4, [])
