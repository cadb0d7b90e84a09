"""Evaluation in a real Ray: models and folders on benchmarks, lost actors, and the report of it all."""

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from daefr.data.images import encode_png
from pipelines import cluster
from pipelines.benchmarks import open_benchmark
from pipelines.config import load_config
from pipelines.contenders import open_model
from pipelines.evaluate import evaluate
from pipelines.figures import FIGURES, summary_of
from pipelines.run import open_run
from pipelines.steps import Committed
from pipelines.tables import table
from tests.daefr import tiny
from tests.e2e.command import TINY

FACES = 37
SIDE = tiny.SIDE


@pytest.fixture(scope="module", autouse=True)
def _one_cluster() -> Iterator[None]:
    """One Ray for all runs of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "disconnect", lambda: None)
        cluster.connect()
        yield
    cluster.disconnect()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A benchmark of faces, `lq` and `gt`, of which one is missing, one damaged, one without ground truth."""
    folder = tmp_path_factory.mktemp("benchmark")
    for kind in ("lq", "gt"):
        (folder / kind / "deep").mkdir(parents=True)
    for number in range(FACES):
        face = tiny.face(np.random.default_rng(number), 2 * SIDE)
        name = f"deep/{number:02d}" if number % 2 else f"{number:02d}"
        (folder / "gt" / f"{name}.png").write_bytes(encode_png(face))
        (folder / "lq" / f"{name}.jpg").write_bytes(tiny.encode_jpeg(face, SIDE // 2))
    (folder / "lq" / "00.jpg").unlink()
    (folder / "lq" / "02.jpg").write_bytes(b"no image")
    (folder / "gt" / "04.png").unlink()
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folders = [tmp_path_factory.mktemp(f"model-{seed}") / "checkpoint" for seed in (1, 2)]
    for seed, folder in enumerate(folders):
        tiny.checkpoint(folder, tiny.build("restoration", seed))
    return folders


def _overrides(places: Path, *more: str) -> list[str]:
    paths = [f"evaluation.benchmarks.celeba-test.{kind}={places / kind}" for kind in ("lq", "gt")]
    return [*paths, f"evaluation.benchmarks.lfw-test.lq={places / 'lq'}", *more]


def _evaluate(workdir: Path, model: Path, overrides: Sequence[str], names: Sequence[str] = ()) -> Committed:
    config = load_config(TINY, [f"workdir={workdir}", *overrides])
    with open_run(config, "evaluate") as run:
        found = config.evaluation.benchmarks
        benchmarks = [open_benchmark(name, found[name]) for name in names or found]
        return evaluate(run, open_model(run.tracking, str(model), label=model.parent.name), benchmarks)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def evaluated(workdir: Path, places: Path, models: list[Path]) -> Committed:
    return _evaluate(workdir, models[0], _overrides(places))


def test_missing_and_unusable_images_are_named_counted_and_left_out(evaluated: Committed) -> None:
    found = summary_of(evaluated.manifest.outputs).benchmarks["celeba-test"]
    assert (found.images, found.measured, found.missing, found.failed) == (FACES, FACES - 3, 1, 2)
    rows = {row["image"]: row for row in pq.read_table(evaluated.folder / FIGURES).to_pylist()
            if row["benchmark"] == "celeba-test"}  # fmt: skip
    assert len(rows) == FACES
    problems = {image: row["problem"] for image, row in rows.items() if row["problem"]}
    assert list(problems) == ["00", "02", "04"]
    assert problems["00"] == "missing: there is ground truth, but no LQ image"
    assert problems["02"] == "02.jpg cannot be used: not a readable image"
    assert problems["04"] == "there is an LQ image, but no ground truth"
    values = [row["psnr/restored"] for row in rows.values() if row["psnr/restored"] is not None]
    assert len(values) == FACES - 3
    figure = found.figures["restored"]["psnr"]
    assert figure.value == pytest.approx(np.mean(values))
    assert figure.images == FACES - 3


def test_without_ground_truth_the_measures_that_need_it_say_so(evaluated: Committed) -> None:
    found = summary_of(evaluated.manifest.outputs).benchmarks["lfw-test"]
    assert (found.measured, found.missing, found.failed) == (FACES - 2, 0, 1)
    assert found.figures == {}
    assert "lfw-test (35 images, 1 failed)" in table(evaluated)


def test_figures_do_not_depend_on_the_number_of_actors(
    evaluated: Committed, places: Path, models: list[Path], tmp_path: Path
) -> None:
    alone = _evaluate(tmp_path, models[0], _overrides(places, "compute.evaluate.actors=1"))
    assert alone.folder.name == evaluated.folder.name, "what it runs on is not part of the step"
    assert pq.read_table(alone.folder / FIGURES).equals(pq.read_table(evaluated.folder / FIGURES))
    assert alone.manifest.outputs == evaluated.manifest.outputs


def _kill_an_actor() -> bool:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::_Actor.run") and _is_ours(int(path.parent.name)):
                os.kill(int(path.parent.name), signal.SIGKILL)
                return True
        except (FileNotFoundError, ProcessLookupError):
            continue
    return False


def _is_ours(process: int) -> bool:
    while process > 1 and process != os.getpid():
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return process == os.getpid()
