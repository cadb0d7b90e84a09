"""Benchmarks from where they can be: folders with tar files in them, and S3."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from daefr.data.images import encode_png
from daefr.errors import UserError
from pipelines.benchmarks import FileItem, UnreadableError, check_places, open_benchmark
from pipelines.config import BenchmarkConfig
from tests.daefr import tiny
from tests.s3_server import Proxy, direct


def _face(seed: int) -> bytes:
    return encode_png(tiny.face(np.random.default_rng(seed)))


def _read(item: object) -> tuple[str, bool, bool]:
    assert isinstance(item, FileItem)
    sample = item.read()
    return sample.name, sample.lq is not None, sample.hq is not None


def test_tar_files_and_folders_hold_images_alike(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "lq.tar", "w") as tar:
        for seed in range(3):
            about = tarfile.TarInfo(f"{seed}.png")
            about.size = len(_face(seed))
            tar.addfile(about, io.BytesIO(_face(seed)))
    (tmp_path / "gt" / "lq.tar").mkdir(parents=True)
    for seed in range(3):
        (tmp_path / "gt" / "lq.tar" / f"{seed}.png").write_bytes(_face(seed))
    config = BenchmarkConfig(lq=str(tmp_path / "lq.tar"), gt=str(tmp_path / "gt"))
    found = open_benchmark("mine", config)
    assert [_read(item) for item in found.items] == [(f"lq.tar/{seed}", True, True) for seed in range(3)]


def test_s3_holds_benchmarks_too_and_a_changed_image_changes_the_digest(s3: Proxy) -> None:
    client = direct(s3)
    client.create_bucket(Bucket="benchmarks")
    for seed in range(2):
        client.put_object(Bucket="benchmarks", Key=f"lfw/{seed}.png", Body=_face(seed))
    config = BenchmarkConfig(lq="s3://benchmarks/lfw")
    check_places({"lfw-test": config})
    found = open_benchmark("lfw-test", config)
    assert [_read(item) for item in found.items] == [("0", True, False), ("1", True, False)]
    assert open_benchmark("lfw-test", config).digest == found.digest
    client.put_object(Bucket="benchmarks", Key="lfw/1.png", Body=_face(7))
    assert open_benchmark("lfw-test", config).digest != found.digest
    with pytest.raises(UnreadableError, match=r"1\.png cannot be read: has changed since it was listed"):
        _read(found.items[1])
    with pytest.raises(UserError, match=r"lfw-test\.lq=s3://benchmarks/none is empty"):
        check_places({"lfw-test": BenchmarkConfig(lq="s3://benchmarks/none")})
