"""Places of faces and of shards: folders, tar files and a real S3 server over HTTP, with all that can go wrong."""

import os
import shutil
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from daefr.data.dataset import FaceDataset
from daefr.data.manifest import NAME, Shard, load_manifest, read_shards
from daefr.data.order import Position
from daefr.errors import UserError
from daefr.listing import PassedOver
from pipelines.storage import s3 as storage
from pipelines.storage.address import split_address
from pipelines.storage.cache import ShardCache
from pipelines.storage.files import list_files, list_whole_files
from pipelines.storage.listing import ListingDigest
from pipelines.storage.s3 import StorageError
from pipelines.synthesize import sources as sources_module
from pipelines.synthesize.settings import DataConfig
from pipelines.synthesize.shards import ShardTask, make_shard
from pipelines.synthesize.sources import RejectedError, Source, list_sources
from tests.daefr import tiny
from tests.s3_server import Fault, Proxy, direct

NAMES = ["a-b.png", "a/1.png", "a/2.png", "b.png", "ü/c.png"]


@pytest.fixture
def bucket(s3: Proxy, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of an empty bucket."""
    name = f"test-{abs(hash(request.node.name)):x}"
    direct(s3).create_bucket(Bucket=name)
    yield f"s3://{name}"


def _face(number: int, side: int = 40) -> bytes:
    image = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return cv2.imencode(".png", image)[1].tobytes()


def _fill(folder: Path) -> None:
    for number, name in enumerate(NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(_face(number))
    (folder / ".hidden.png").write_bytes(_face(9))


def _tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            (path.parent / "member").write_bytes(data)
            tar.add(path.parent / "member", name)
    (path.parent / "member").unlink()


def _upload(proxy: Proxy, folder: Path, address: str) -> None:
    name, prefix = split_address(address)
    for path in folder.rglob("*"):
        if path.is_file():
            direct(proxy).upload_file(str(path), name, f"{prefix}/{path.relative_to(folder).as_posix()}".lstrip("/"))


def _sources(place: str | list[str]) -> list[Source]:
    return list(list_sources(DataConfig(faces=place, num_validation=1))["train"].head) + list(
        list_sources(DataConfig(faces=place, num_validation=1))["validation"].head
    )


def _by_name(sources: list[Source]) -> dict[str, Source]:
    return {source.name: source for source in sources}


def _task(path: Path, sources: list[Source], store: str | None = None) -> ShardTask:
    recipes = {"mild": "daefr-mild", "severe": "daefr-severe"}
    return ShardTask(
        path=path, sources=sources, first=0, resolution=32, recipes=recipes, variants=1, seed=5, store=store
    )


def test_a_bucket_is_listed_like_the_folder_it_is_a_copy_of(s3: Proxy, bucket: str, tmp_path: Path) -> None:
    _fill(tmp_path)
    _upload(s3, tmp_path, f"{bucket}/faces")
    _upload(s3, tmp_path, f"{bucket}/faces-not-meant")
    direct(s3).put_object(Bucket=bucket.removeprefix("s3://"), Key="faces/folder/")
    here, there = list(list_files(str(tmp_path))), list(list_files(f"{bucket}/faces"))
    assert [file.name for file in here] == [file.name for file in there] == NAMES
    assert [file.size for file in here] == [file.size for file in there]


def test_what_is_no_image_is_passed_over_and_counted(s3: Proxy, bucket: str, tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "in", tmp_path / "elsewhere"
    for path in (folder / "a.jpg", folder / "no suffix", elsewhere / "b.png"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(_face(1))
    for name in ("Thumbs.db", "a.json", "film.mp4"):
        (folder / name).write_text("no image")
    _upload(s3, folder, f"{bucket}/in")
    (folder / "album").symlink_to(elsewhere)
    (folder / "again.jpg").symlink_to(folder / "a.jpg")
    (folder / "gone").symlink_to(tmp_path / "nowhere")
    here, there = PassedOver(), PassedOver()
    assert [file.name for file in list_files(str(folder), here)] == ["a.jpg", "no suffix", "album/b.png"]
    assert [file.name for file in list_files(f"{bucket}/in", there)] == ["a.jpg", "no suffix"]
    assert here.other_files == there.other_files == 3
    assert len(here.links) == 2
    assert [file.name for file in list_files(str(folder), every_name=True)][-1] == "again.jpg"
    assert "Thumbs.db" in [file.name for file in list_whole_files(str(folder))]
    (elsewhere / "b.png").unlink()
    (elsewhere / "b.txt").write_text("no image")
    with pytest.raises(UserError, match=r"elsewhere has no image, 1 other file passed over"):
        _sources(str(elsewhere))


def test_faces_in_tar_files_are_those_that_were_packed(s3: Proxy, bucket: str, tmp_path: Path) -> None:
    first = {f"{number}.png": _face(number) for number in range(3)}
    _tar(tmp_path / "in/x/first.tar", {**first, "0.json": b"{}", ".hidden.png": b""})
    _tar(tmp_path / "in/second.tar", {"./deep/7.png": _face(7)})
    (tmp_path / "in/8.png").write_bytes(_face(8))
    _upload(s3, tmp_path / "in", f"{bucket}/in")
    contents = {f"x/first.tar/{name}": data for name, data in first.items()}
    contents |= {"second.tar/deep/7.png": _face(7), "8.png": _face(8)}
    for place in (str(tmp_path / "in"), f"{bucket}/in"):
        assert {name: source.read() for name, source in _by_name(_sources(place)).items()} == contents
    listed = [str(tmp_path / "in/x/first.tar"), f"{bucket}/in/second.tar"]
    names = _by_name(_sources(listed))
    assert sorted(names) == [f"first.tar/{number}.png" for number in range(3)] + ["second.tar/deep/7.png"]
    assert names["second.tar/deep/7.png"].load(32).image.shape == (32, 32, 3)


@pytest.mark.parametrize("damage", ["cut in an image", "cut in a header", "no end", "header of noise"])
def test_a_damaged_tar_file_is_told_and_not_half_used(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "faces.tar"
    _tar(path, {f"{number}.png": _face(number) for number in range(3)})
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    data = path.read_bytes()
    end = last.offset_data + -(-last.size // 512) * 512
    path.write_bytes(
        {
            "cut in an image": data[: last.offset_data + 100],
            "cut in a header": data[: last.offset + 100],
            "no end": data[:end],
            "header of noise": data[: last.offset] + b"noise" * 100 + data[last.offset + 500 :],
        }[damage]
    )
    with pytest.raises(UserError, match=r"faces\.tar is damaged"):
        _sources(str(tmp_path))


def test_two_places_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the same last name"):
        _sources([str(tmp_path / "a/faces"), str(tmp_path / "b/faces")])


@pytest.mark.parametrize("fault", ["500", "503", "refuse", "cut"])
def test_a_face_is_read_although_s3_fails_at_first(fault: Fault, s3: Proxy, bucket: str, tmp_path: Path) -> None:
    _fill(tmp_path)
    _upload(s3, tmp_path, bucket)
    source = _by_name(_sources(bucket))["b.png"]
    s3.fail([fault, fault])
    assert source.read() == (tmp_path / "b.png").read_bytes()
    assert not s3.left


@pytest.mark.parametrize("fault", ["500", "cut"])
def test_a_listing_is_whole_although_s3_fails_at_first(fault: Fault, s3: Proxy, bucket: str, tmp_path: Path) -> None:
    _fill(tmp_path)
    _upload(s3, tmp_path, bucket)
    s3.fail([fault])
    assert [file.name for file in list_files(bucket)] == NAMES
    assert not s3.left


def test_a_face_that_vanished_or_changed_is_rejected_with_its_reason(s3: Proxy, bucket: str, tmp_path: Path) -> None:
    _fill(tmp_path / "in")
    _tar(tmp_path / "in/c.tar", {"0.png": _face(0), "1.png": _face(1)})
    _upload(s3, tmp_path / "in", bucket)
    there, here = _by_name(_sources(bucket)), _by_name(_sources(str(tmp_path / "in")))
    client, name = direct(s3), bucket.removeprefix("s3://")
    client.delete_object(Bucket=name, Key="b.png")
    client.put_object(Bucket=name, Key="a/1.png", Body=_face(99))
    client.put_object(Bucket=name, Key="c.tar", Body=b"")
    (tmp_path / "in/b.png").unlink()
    os.utime(tmp_path / "in/c.tar", ns=(1, 1))
    for source, reason in (
        (there["b.png"], "not there"),
        (there["a/1.png"], "has changed"),
        (there["c.tar/1.png"], "has changed"),
        (here["b.png"], "No such file"),
        (here["c.tar/1.png"], "has changed"),
    ):
        with pytest.raises(RejectedError, match=f"cannot be read: {reason}"):
            source.load(32)


def test_a_store_that_stays_away_is_no_reason_to_reject_a_face(
    s3: Proxy, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct(s3).put_object(Bucket=bucket.removeprefix("s3://"), Key="1.png", Body=_face(1))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    storage._client_of.cache_clear()
    s3.fail(["503"] * 9)
    with pytest.raises(StorageError, match="503"):
        Source("1.png", f"{bucket}/1.png", size=9).load(32)
    storage._client_of.cache_clear()


@pytest.mark.parametrize("place", ["nothing", ""])
def test_a_bucket_or_prefix_without_faces_is_told_in_one_line(place: str, s3: Proxy, bucket: str) -> None:
    address = f"{bucket}/{place}" if place else f"{bucket}-that-is-not"
    with pytest.raises(UserError, match=r"data\.faces=s3://") as caught:
        list_sources(DataConfig(faces=address))
    assert "\n" not in str(caught.value)
    assert s3.requests


def test_what_is_made_of_s3_on_s3_is_byte_for_byte_what_is_made_here(s3: Proxy, bucket: str, tmp_path: Path) -> None:
    _fill(tmp_path / "in")
    _upload(s3, tmp_path / "in", f"{bucket}/in")
    local = make_shard(_task(tmp_path / "out/train-000000.tar", _sources(str(tmp_path / "in"))))
    s3.fail(["503", "cut", "500", "refuse"])
    task = _task(tmp_path / "none/train-000000.tar", _sources(f"{bucket}/in"), f"{bucket}/out")
    remote = make_shard(task)
    assert not s3.left
    assert local.shard == remote.shard
    assert storage.read(f"{bucket}/out/train-000000.tar") == (tmp_path / "out/train-000000.tar").read_bytes()
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("fault", ["503", "refuse", "lose"])
def test_a_large_upload_is_there_whole_or_not_at_all(fault: Fault, s3: Proxy, bucket: str, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(np.random.default_rng(0).bytes(20_000_000))
    seen: list[int] = []

    def is_part(_: str, path: str) -> bool:
        if "partNumber" in path:
            seen.append(direct(s3).list_objects_v2(Bucket=bucket.removeprefix("s3://"))["KeyCount"])
        return "partNumber" in path

    s3.fail([fault, fault], is_part)
    storage.upload(large, f"{bucket}/large")
    assert not s3.left
    assert set(seen) == {0}, "nothing has the final name before all parts are there"
    assert storage.read(f"{bucket}/large") == large.read_bytes()


def test_what_a_killed_upload_left_is_dropped(s3: Proxy, bucket: str) -> None:
    name = bucket.removeprefix("s3://")
    direct(s3).create_multipart_upload(Bucket=name, Key="run/shard.tar")
    direct(s3).create_multipart_upload(Bucket=name, Key="other/shard.tar")
    storage.forget_unfinished_uploads(f"{bucket}/run")
    assert [left["Key"] for left in direct(s3).list_multipart_uploads(Bucket=name)["Uploads"]] == ["other/shard.tar"]


@pytest.fixture
def dataset(s3: Proxy, bucket: str, tmp_path: Path) -> Path:
    """A folder with the manifest of a dataset whose shards are on S3."""
    whole = tiny.write_dataset(tmp_path / "whole")
    _upload(s3, whole, f"{bucket}/dataset")
    shutil.copytree(whole, tmp_path / "dataset", ignore=shutil.ignore_patterns("*.tar"))
    made = load_manifest(whole).model_copy(update={"store": f"{bucket}/dataset"})
    (tmp_path / "dataset" / NAME).write_text(made.model_dump_json())
    return tmp_path / "dataset"


def _cache(dataset: Path, limit: int) -> ShardCache:
    store = load_manifest(dataset).store
    assert store is not None
    return ShardCache(store, dataset.parent / "cache", limit)


def _held(dataset: Path) -> list[Path]:
    return list((dataset.parent / "cache").glob("*/*"))


def _open_and_close(cache: ShardCache, shard: Shard) -> bytes:
    with cache(shard) as path:
        return path.read_bytes()


def test_training_data_is_the_same_through_the_cache(s3: Proxy, dataset: Path) -> None:
    s3.fail(["503", "cut"], lambda method, _: method == "GET")
    there = FaceDataset(dataset, "train", ("hq", "severe"), draw=True, fetch=_cache(dataset, 10**9))
    here = FaceDataset(dataset.parent / "whole", "train", ("hq", "severe"), draw=True)
    for shard, size in enumerate(here.sizes):
        for sample in range(size):
            ours, theirs = there[Position(0, shard, sample)], here[Position(0, shard, sample)]
            assert all(bool((ours[part] == theirs[part]).all()) for part in ("hq", "lq"))
    assert not s3.left
    assert sum("dataset/train" in path and method == "GET" for method, path in s3.requests) == len(here.sizes) + 2


def test_without_a_cache_it_is_told_where_the_shards_are(dataset: Path) -> None:
    with pytest.raises(UserError, match="are at s3://"):
        FaceDataset(dataset, "train", ("hq",))


def test_the_cache_keeps_to_its_limit_and_what_was_used_last(dataset: Path) -> None:
    shards = list(read_shards(dataset, load_manifest(dataset).train))
    limit = max(shard.bytes for shard in shards) * 2
    cache = _cache(dataset, limit)
    opened = []
    for shard in shards:
        with cache(shard) as path:
            opened.append(path.open("rb"))
        _open_and_close(cache, shards[0])
        assert sum(path.stat().st_size for path in _held(dataset)) <= limit
        assert shards[0].name in {path.name for path in _held(dataset)}
    for stream, shard in zip(opened, shards, strict=True):
        assert len(stream.read()) == shard.bytes, "what was opened is read on after it is evicted"
        stream.close()


def test_many_readers_of_a_small_cache_get_whole_shards(dataset: Path) -> None:
    shards = list(read_shards(dataset, load_manifest(dataset).train))
    cache = _cache(dataset, max(shard.bytes for shard in shards) * 2)
    problems: list[Any] = []

    def read(start: int) -> None:
        try:
            for turn in range(12):
                shard = shards[(start + turn) % len(shards)]
                if len(_open_and_close(cache, shard)) != shard.bytes:
                    problems.append(shard)
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=read, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_a_shard_that_is_damaged_missing_or_too_large_is_told(s3: Proxy, dataset: Path) -> None:
    made = load_manifest(dataset)
    damaged, missing, large = list(read_shards(dataset, made.train))[:3]
    bucket, prefix = split_address(str(made.store))
    direct(s3).put_object(Bucket=bucket, Key=f"{prefix}/{damaged.name}", Body=bytes(damaged.bytes))
    direct(s3).delete_object(Bucket=bucket, Key=f"{prefix}/{missing.name}")
    cache = _cache(dataset, 10**9)
    for shard, problem in ((damaged, "is damaged"), (missing, "is missing")):
        with pytest.raises(UserError, match=problem):
            _open_and_close(cache, shard)
    with pytest.raises(UserError, match=r"compute\.max_cache_bytes=10 is less"):
        _open_and_close(_cache(dataset, 10), large)
    assert _held(dataset) == []


def test_many_sources_are_planned_without_being_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources_module, "HEAD", 100)
    data = DataConfig(num_portraits=1000, num_validation=7)
    sources = list_sources(data)
    names = {split: [source.name for source in part] for split, part in sources.items()}
    assert len(sources["train"].head) == 93
    assert sources["train"].listing is not None
    assert len(names["validation"]) == 7
    assert sorted(names["train"] + names["validation"]) == [f"portrait-{number:06d}" for number in range(1000)]
    assert len(list(list_sources(DataConfig(num_portraits=1000, max_faces=500))["train"])) == 500 - 16
    assert len(list(list_sources(DataConfig(num_portraits=1000, max_faces=50))["train"])) == 50 - 16


def test_the_digest_of_sources_does_not_depend_on_their_order() -> None:
    sources = [Source(f"{number}.png", size=number) for number in range(5)]
    assert ListingDigest.of(sources) == ListingDigest.of(reversed(sources))
    assert ListingDigest.of(sources) != ListingDigest.of(sources[:4])
    assert ListingDigest.of(sources) != ListingDigest.of([*sources[:4], Source("4.png", size=5)])
