"""Evaluation with Ray: models and folders on benchmarks, lost actors, and reports."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import pipelines.evaluate.step as evaluation
from daefr.images import encode_png
from daefr.metrics.bootstrap import mean_difference
from pipelines.chain import open_chain
from pipelines.commands import main as run_pipelines
from pipelines.config import load_config
from pipelines.engine.step import StepResult
from pipelines.evaluate.benchmarks import open_benchmark
from pipelines.evaluate.parts import PARTS
from pipelines.evaluate.results import METRICS_FILE, load_summary, read_image_metrics
from pipelines.evaluate.tables import table
from pipelines.evaluate.targets import open_model
from tests.daefr import tiny
from tests.e2e.command import TINY
from tests.pipelines.processes import kill_one

FACES = 37
SIDE = tiny.SIDE


pytestmark = pytest.mark.usefixtures("one_cluster")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A benchmark in which one face is missing, one is damaged and one has no ground truth."""
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


def _evaluate(workdir: Path, model: Path, overrides: Sequence[str], names: Sequence[str] = ()) -> StepResult:
    config = load_config(TINY, [f"workdir={workdir}", "compute.evaluate.workers=1", *overrides])
    with open_chain(config, "evaluate") as chain:
        found = config.evaluation.benchmarks
        benchmarks = [open_benchmark(name, found[name]) for name in names or found]
        return chain.evaluate(open_model(chain.run.tracking, str(model), label=model.parent.name), benchmarks)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def evaluated(workdir: Path, places: Path, models: list[Path]) -> StepResult:
    return _evaluate(workdir, models[0], _overrides(places, "compute.evaluate.workers=2"))


def test_missing_and_unusable_images_are_listed_counted_and_skipped(evaluated: StepResult) -> None:
    found = load_summary(evaluated.outputs).benchmarks["celeba-test"]
    assert (found.images, found.measured, found.missing, found.failed) == (FACES, FACES - 3, 1, 2)
    rows = {row["image"]: row for row in pq.read_table(evaluated.folder / METRICS_FILE).to_pylist()
            if row["benchmark"] == "celeba-test"}  # fmt: skip
    assert len(rows) == FACES
    problems = {image: row["problem"] for image, row in rows.items() if row["problem"]}
    assert list(problems) == ["00", "02", "04"]
    assert problems["00"].startswith("missing")
    assert problems["02"].startswith("02.jpg")
    assert not problems["04"].startswith("missing")
    values = [row["psnr/restored"] for row in rows.values() if row["psnr/restored"] is not None]
    assert len(values) == FACES - 3
    result = found.metrics["restored"]["psnr"]
    assert result.value == pytest.approx(np.mean(values))
    assert result.images == FACES - 3


def test_metrics_that_need_ground_truth_are_unavailable_without_it(evaluated: StepResult) -> None:
    found = load_summary(evaluated.outputs).benchmarks["lfw-test"]
    assert (found.measured, found.missing, found.failed) == (FACES - 2, 0, 1)
    assert found.metrics == {}
    assert "lfw-test (35 images, 1 failed)" in table(evaluated)


def test_results_do_not_depend_on_the_number_of_actors_or_on_lost_ones(
    evaluated: StepResult, places: Path, models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[bool] = []
    run_on_actors = evaluation.run_on_actors

    def kill_once(*arguments: Any, **options: Any) -> Iterator[Any]:
        for result in run_on_actors(*arguments, **options):
            if not killed:
                killed.append(kill_one(b"ray::_Actor"))
            yield result

    monkeypatch.setattr(evaluation, "run_on_actors", kill_once)
    found = _evaluate(tmp_path, models[0], _overrides(places))
    assert killed == [True]
    assert found.folder.name == evaluated.folder.name, "resources must not change the fingerprint"
    assert found.outputs == evaluated.outputs
    assert pq.read_table(found.folder / METRICS_FILE).equals(pq.read_table(evaluated.folder / METRICS_FILE))


def test_finished_parts_are_not_evaluated_again(
    evaluated: StepResult, places: Path, models: list[Path], workdir: Path
) -> None:
    before = pq.read_table(evaluated.folder / METRICS_FILE)
    files = sorted((evaluated.folder / PARTS).glob("*/*.parquet"))
    times = {path: path.stat().st_mtime_ns for path in files}
    (evaluated.folder / "manifest.json").unlink()
    files[0].write_bytes(files[0].read_bytes()[:100])
    files[1].unlink()
    again = _evaluate(workdir, models[0], _overrides(places))
    changed = [path for path in files if path.stat().st_mtime_ns != times[path]]
    assert changed == files[:2]
    assert pq.read_table(again.folder / METRICS_FILE).equals(before)


def test_shards_are_a_benchmark(models: list[Path], tmp_path: Path) -> None:
    dataset = tiny.write_dataset(tmp_path / "dataset")
    overrides = [f"evaluation.benchmarks.faces.dataset={dataset}", "evaluation.benchmarks.faces.kind=mild"]
    found = load_summary(_evaluate(tmp_path, models[0], overrides).outputs)
    assert found.benchmarks["faces"].measured == sum(tiny.VALIDATION_SIZES)
    assert found.codebook is not None
    assert found.codebook.codes == tiny.CODES
    assert 0 < found.codebook.dead < tiny.CODES


def test_precomputed_results_are_measured_on_the_images_of_their_benchmark(
    places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made"
    made.mkdir()
    for number in (6, 8, 10):
        (made / f"{number:02d}.webp").write_bytes((places / "gt" / f"{number:02d}.png").read_bytes())
    (made / "12.png").write_bytes(encode_png(tiny.face(np.random.default_rng(0), SIDE)))
    (made / "stray.png").write_bytes(b"")
    options = ["--restored", f"celeba-test={made}", "--label", "PSFRGAN", *_overrides(places)]
    assert _command(tmp_path / "run", *options) == 0
    out = capsys.readouterr().out
    assert f"celeba-test (3 images, {FACES - 4} missing, 2 failed)" in out
    assert "inf" in out
    (folder,) = (tmp_path / "run" / "steps").glob("evaluate-*")
    rows = {row["image"]: row["problem"] for row in pq.read_table(folder / METRICS_FILE).to_pylist()}
    assert "16x16" in rows["12"] and "32x32" in rows["12"]
    assert not rows["stray"].startswith("missing")
    assert rows["14"].startswith("missing")
    (line,) = [line for line in out.splitlines() if line.startswith("report: ")]
    assert "PSFRGAN" in Path(line.removeprefix("report: ")).read_text()


def test_the_report_compares_a_model_with_the_champion(
    evaluated: StepResult, places: Path, models: list[Path], workdir: Path
) -> None:
    champion = _evaluate(workdir, models[1], _overrides(places))
    config = load_config(TINY, [f"workdir={workdir}", *_overrides(places)])
    with open_chain(config, "evaluate") as chain:
        page = Path(chain.report(evaluated, champion))
        (run_id,) = [json.loads((page.parent / "manifest.json").read_text())["run_id"]]
        assert "report.html" in {each.path for each in chain.run.tracking.client.list_artifacts(run_id)}
    text = page.read_text()
    name = "psnr/restored"
    ours, theirs = (read_image_metrics(each.folder, "celeba-test", [name]) for each in (evaluated, champion))
    common = sorted(ours.keys() & theirs.keys())
    expected = mean_difference([ours[image][name] for image in common], [theirs[image][name] for image in common])
    for value in (expected.difference, expected.low, expected.high):
        assert f"{value:+.3f}".replace("-", "\N{MINUS SIGN}") in text
    assert "GFP-GAN" in text
    assert "02.jpg" in text
    assert 'alt="champion of' in text
    assert 'alt="HQ of' in text
    assert re.findall(r'(?:src|href)="(?!data:)|url\(|<script|@import', text) == [], "no outside resources"


def _command(workdir: Path, *arguments: str) -> int:
    return run_pipelines(["evaluate", "--config", str(TINY), f"workdir={workdir}", *arguments])
