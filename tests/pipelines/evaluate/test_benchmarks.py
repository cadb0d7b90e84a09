"""Benchmarks from where they can be, folders, tar files and S3, and what is said of those that are none."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from daefr.errors import UserError
from daefr.images import encode_png
from pipelines.commands import main as run_pipelines
from pipelines.evaluate.benchmarks import FileItem, UnreadableError, check_places, open_benchmark
from pipelines.evaluate.settings import BenchmarkConfig
from tests.daefr import tiny
from tests.e2e.command import TINY
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


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmark")
    for kind in ("lq", "gt"):
        (folder / kind).mkdir()
        (folder / kind / "00.png").write_bytes(_face(0))
    return folder


def _command(places: Path, options: Sequence[str]) -> int:
    paths = [f"evaluation.benchmarks.celeba-test.{kind}={places / kind}" for kind in ("lq", "gt")]
    lfw = f"evaluation.benchmarks.lfw-test.lq={places / 'lq'}"
    return run_pipelines(["evaluate", "--config", str(TINY), f"workdir={places / 'run'}", *paths, lfw, *options])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--model", "nowhere"], "nowhere"),
        (["--model", "models:/daefr-restoration@champion"], "There is no model 'daefr-restoration'"),
        (["--method", "gfpgan"], "--method gfpgan needs --weights FILE"),
        (["--method", "gfpgan", "--weights", "nowhere.pth"], "nowhere.pth is not there"),
        (["--restored", "celeba-test"], "is not of the form celeba-test=FOLDER"),
        (["--restored", "wider-test=x"], "--restored wider-test: the configured benchmarks are celeba-test, lfw-test"),
        (["--restored", "celeba-test=nowhere"], "--restored=nowhere does not exist"),
        (["--model", "nowhere", "--benchmark", "wider-test"], "--benchmark wider-test: the configured benchmarks are"),
        (["evaluation.benchmarks.celeba-test.lq=nowhere"], "evaluation.benchmarks.celeba-test.lq=nowhere does not"),
        (["evaluation.benchmarks.celeba-test.lqq=x"], "did you mean lq?"),
        (["evaluation.benchmarks.x={}"], "evaluation.benchmarks.x"),
        (["evaluation.metrics=[psnrr]"], "evaluation.metrics.0"),
        (["evaluation.weights=nowhere"], "nowhere, which the evaluation should use, is not there"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line_before_anything_is_evaluated(
    places: Path, options: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _command(places, options) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("error: ")
    assert problem in told
    assert not list(places.glob("run/steps/evaluate-*"))


def test_names_that_differ_in_their_suffix_alone_are_refused(places: Path, tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"a\.jpg and a\.png have one name but for the suffix"):
        open_benchmark("celeba-test", BenchmarkConfig(lq=str(tmp_path)))
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(UserError, match="there is a here and 00 there"):
        open_benchmark("celeba-test", BenchmarkConfig(lq=str(tmp_path), gt=str(places / "gt")))
