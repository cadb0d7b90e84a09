"""Benchmarks in folders, in tar files and on S3, and errors in their configuration."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from daefr.errors import UserError
from daefr.images import encode_png
from pipelines.commands import main as run_pipelines
from pipelines.evaluate.benchmarks import FileItem, UnreadableError, check_locations, open_benchmark
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
    check_locations({"lfw-test": config})
    found = open_benchmark("lfw-test", config)
    assert [_read(item) for item in found.items] == [("0", True, False), ("1", True, False)]
    assert open_benchmark("lfw-test", config).digest == found.digest
    client.put_object(Bucket="benchmarks", Key="lfw/1.png", Body=_face(7))
    assert open_benchmark("lfw-test", config).digest != found.digest
    with pytest.raises(UnreadableError, match=r"1\.png"):
        _read(found.items[1])
    with pytest.raises(UserError, match=r"lfw-test\.lq=s3://benchmarks/none"):
        check_locations({"lfw-test": BenchmarkConfig(lq="s3://benchmarks/none")})


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
        (["--model", "models:/daefr-restoration@champion"], "'daefr-restoration'"),
        (["--method", "gfpgan"], "--weights"),
        (["--method", "gfpgan", "--weights", "nowhere.pth"], "nowhere.pth"),
        (["--restored", "celeba-test"], "celeba-test=FOLDER"),
        (["--restored", "wider-test=x"], "celeba-test, lfw-test"),
        (["--restored", "celeba-test=nowhere"], "--restored=nowhere"),
        (["--model", "nowhere", "--benchmark", "wider-test"], "celeba-test, lfw-test"),
        (["evaluation.benchmarks.celeba-test.lq=nowhere"], "evaluation.benchmarks.celeba-test.lq=nowhere"),
        (["evaluation.benchmarks.celeba-test.lqq=x"], "did you mean lq?"),
        (["evaluation.benchmarks.x={}"], "evaluation.benchmarks.x"),
        (["evaluation.metrics=[psnrr]"], "evaluation.metrics.0"),
        (["evaluation.weights=nowhere"], "nowhere"),
    ],
)
def test_errors_are_one_line_and_come_before_any_evaluation(
    places: Path, options: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _command(places, options) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("error: ")
    assert problem in message
    assert not list(places.glob("run/steps/evaluate-*"))


def test_names_that_differ_only_in_their_suffix_are_an_error(places: Path, tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"a\.jpg.*a\.png"):
        open_benchmark("celeba-test", BenchmarkConfig(lq=str(tmp_path)))
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(UserError, match=r"lq.*gt"):
        open_benchmark("celeba-test", BenchmarkConfig(lq=str(tmp_path), gt=str(places / "gt")))
