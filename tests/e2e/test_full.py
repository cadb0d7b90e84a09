"""The whole pipeline through the real Ray, MLflow and files. The tests of this file build on one run."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from daefr.__main__ import main as daefr
from daefr.checkpoint import load_checkpoint
from daefr.data.manifest import load_manifest, read_shards
from daefr.files import file_digest
from daefr.images import decode_image, encode_png
from daefr.portraits import draw_portrait
from pipelines.commands import main as pipelines
from tests.e2e.command import Finished, kill_when, run

STAGES = ["hq_codebook", "lq_codebook", "association", "restoration"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def finished(workdir: Path) -> Finished:
    """A run that was killed in the middle of synthesis and in the middle of training, and started again."""
    kill_when(lambda: any(workdir.glob("steps/synthesize-*/dataset/*.json")), "full", workdir)
    kill_when(lambda: len(list(workdir.glob("checkpoints/hq_codebook-*/step-*/manifest.json"))) > 1, "full", workdir)
    return run("full", workdir)


def _step(workdir: Path, name: str) -> Path:
    (folder,) = [path for path in workdir.glob(f"steps/{name}-*") if (path / "manifest.json").exists()]
    return folder


def _last_line(finished: Finished, label: str) -> Path:
    (line,) = [line for line in finished.out.splitlines()[-2:] if line.startswith(f"{label}: ")]
    return Path(line.removeprefix(f"{label}: "))


def test_it_ends_with_a_model_and_a_grid(finished: Finished, workdir: Path) -> None:
    assert finished.code == 0, finished.err
    assert load_checkpoint(_last_line(finished, "model")).stage == "restoration"
    grid = decode_image(_last_line(finished, "grid").read_bytes())
    assert grid.shape[1] // 3 == 192
    for name in ("lq", "hq codebook", "restored"):
        assert name in finished.out
    assert not list(workdir.glob("steps/**/*.tmp"))


def test_after_the_kills_it_went_on_and_repeated_no_finished_work(finished: Finished, workdir: Path) -> None:
    assert "synthesize: up to date" in finished.err
    assert "hq_codebook: resuming" in finished.err
    run_id = json.loads((_step(workdir, "hq_codebook") / "manifest.json").read_text())["run_id"]
    losses = _client(workdir).get_metric_history(run_id, "loss")
    assert {metric.step for metric in losses} == set(range(4, 41, 4))
    # steps before the checkpoint that it went on from were trained once only
    assert sum(metric.step == 4 for metric in losses) == 1


def test_every_stage_is_registered_promoted_and_tells_what_it_came_from(finished: Finished, workdir: Path) -> None:
    assert finished.code == 0, finished.err
    client = _client(workdir)
    for stage in STAGES:
        model = client.get_registered_model(f"daefr-{stage.replace('_', '-')}")
        assert {alias: int(number) for alias, number in model.aliases.items()} == {"candidate": 1, "champion": 1}
        tags = client.get_model_version(model.name, "1").tags
        assert tags["daefr.gate"].startswith("promoted")
        assert tags["daefr.recipes"] == "daefr-mild, daefr-severe"
    tags = client.get_model_version("daefr-restoration", "1").tags
    assert tags["daefr.upstream.hq_codebook"] == "models:/daefr-hq-codebook/1"
    assert tags["daefr.upstream.association"] == "models:/daefr-association/1"


def test_mlflow_holds_one_parent_a_child_a_step_and_curves(finished: Finished, workdir: Path) -> None:
    assert finished.code == 0, finished.err
    client = _client(workdir)
    experiment = client.get_experiment_by_name("daefr")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    journals = {name for name in runs if name.startswith("promotions of daefr-")}
    assert len(journals) == len(STAGES)
    runs = {name: run for name, run in runs.items() if name not in journals}
    parent = runs.pop("full").info.run_id
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert set(runs) >= {"synthesize", *STAGES, "evaluate", "promote_restoration"}
    for stage in STAGES:
        metrics = runs[stage].data.metrics
        assert {"loss", "learning_rate", "samples_per_second", "gradient_norm", "validation_loss"} <= set(metrics)
        assert any("codebook_perplexity" in name for name in metrics)
        assert client.list_artifacts(runs[stage].info.run_id, f"images/{stage}")
        assert runs[stage].data.params["training.steps"] == ("40" if stage in STAGES[:2] else "8")
    assert "association_accuracy" in runs["association"].data.metrics
    assert "validation/psnr/restored" in runs["evaluate"].data.metrics
    assert {artifact.path for artifact in client.list_artifacts(parent)} >= {"grid.png"}


def test_a_copy_under_any_name_is_up_to_date_tells_its_lineage_and_goes_on(
    finished: Finished, workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finished.code == 0, finished.err
    copy = Path(shutil.copytree(workdir, tmp_path / "a%20b ?#'ü"))
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    assert pipelines(["promote", "lineage", "models:/daefr-restoration@champion", f"workdir={copy}"]) == 0
    assert "nothing was recorded" not in capsys.readouterr().out
    again = run("full", copy)
    assert (again.code, again.started()) == (0, []), again.err
    longer = run("train", copy, "--stage", "hq_codebook", "stages.hq_codebook.steps=41")
    assert longer.code == 0, longer.err
    assert _last_line(longer, "model").is_relative_to(copy)
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == [copy.name]


def test_the_model_restores_faces(finished: Finished, tmp_path: Path) -> None:
    faces = tmp_path / "in"
    faces.mkdir()
    (faces / "face.png").write_bytes(encode_png(draw_portrait(99, 64).image))
    model = str(_last_line(finished, "model"))
    assert daefr(["restore", str(faces), str(tmp_path / "out"), "--aligned", "--model", model]) == 0
    assert decode_image((tmp_path / "out/face.png").read_bytes()).shape == (32, 32, 3)


def test_again_nothing_runs(finished: Finished, workdir: Path) -> None:
    again = run("full", workdir)
    assert again.code == 0, again.err
    assert again.started() == []
    assert again.out == finished.out


def test_another_number_of_tasks_gives_the_same_shards(finished: Finished, workdir: Path, tmp_path: Path) -> None:
    assert finished.code == 0, finished.err
    alone = run("synthesize", tmp_path, "compute.max_in_flight=1")
    assert alone.code == 0, alone.err
    ours, theirs = (_step(folder, "synthesize") / "dataset" for folder in (workdir, tmp_path))
    assert load_manifest(ours) == load_manifest(theirs)
    for shard in read_shards(theirs, load_manifest(theirs).train):
        assert file_digest(theirs / shard.name) == file_digest(ours / shard.name) == shard.sha256


def test_a_value_of_the_last_stage_changes_that_stage_only(finished: Finished, workdir: Path, tmp_path: Path) -> None:
    assert finished.code == 0, finished.err
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    changed = run("full", copy, "stages.restoration.steps=4")
    assert changed.code == 0, changed.err
    assert changed.started() == ["restoration", "evaluate", "report", "promote_restoration"]
    assert "daefr-restoration/2 is" in changed.err


def test_a_deleted_stage_runs_again_and_those_after_it(finished: Finished, workdir: Path) -> None:
    assert finished.code == 0, finished.err
    shutil.rmtree(_step(workdir, "association"))
    again = run("full", workdir)
    assert again.code == 0, again.err
    assert [name for name in again.started() if not name.startswith("promote")] == [
        "association",
        "restoration",
    ], "with the same weights as before, which are evaluated already"


def test_a_step_alone_asks_for_what_it_needs(finished: Finished, workdir: Path) -> None:
    assert finished.code == 0, finished.err
    alone = run("train", workdir, "--stage", "hq_codebook", "seed=9")
    assert alone.code == 2
    assert "synthesize has not been run" in alone.err
    kept = run("evaluate", workdir)
    assert kept.code == 0, kept.err
    assert kept.started() == []


def test_a_stage_can_start_from_a_checkpoint_and_take_it_as_it_is(finished: Finished, workdir: Path) -> None:
    assert finished.code == 0, finished.err
    start = _step(workdir, "hq_codebook") / "checkpoint"
    wrong = run("train", workdir, "--stage", "lq_codebook", f"stages.lq_codebook.initial_checkpoint={start}")
    assert wrong.code == 2
    assert "a checkpoint of hq_codebook" in wrong.err
    taken = run(
        "train",
        workdir,
        "--stage",
        "hq_codebook",
        f"stages.hq_codebook.initial_checkpoint={start}",
        "stages.hq_codebook.steps=0",
    )
    assert taken.code == 0, taken.err
    ours = load_checkpoint(_last_line(taken, "model"))
    assert ours.path != start
    assert ours.tensors().keys() == load_checkpoint(start).tensors().keys()
    assert all(torch.equal(tensor, load_checkpoint(start).tensors()[name]) for name, tensor in ours.tensors().items())


@pytest.mark.cluster
def test_a_stage_can_go_on_from_a_champion_or_from_a_released_checkpoint(
    finished: Finished, workdir: Path, tmp_path: Path
) -> None:
    assert finished.code == 0, finished.err
    champion, sizes = str(_step(workdir, "hq_codebook") / "checkpoint"), ["--resolution", "32", "--groups", "4"]
    four = ("train", workdir, "--stage", "hq_codebook", "stages.hq_codebook.steps=4")
    trained = run(
        *four,
        "stages.hq_codebook.initial_checkpoint=models:/daefr-hq-codebook@champion",
        "stages.hq_codebook.ema_decay=0.9",
    )
    assert trained.code == 0, trained.err
    version, averaged = (
        _client(workdir).get_model_version_by_alias("daefr-hq-codebook", alias) for alias in ("candidate", "averaged")
    )
    assert version.tags["daefr.start"] == averaged.tags["daefr.start"] == "models:/daefr-hq-codebook/1"
    assert version.tags["daefr.validation_loss"] != averaged.tags["daefr.validation_loss"]
    assert (
        load_checkpoint(Path(averaged.source)).tensors().keys()
        == load_checkpoint(Path(version.source)).tensors().keys()
    )

    assert daefr(["export", champion, str(tmp_path / "released.ckpt")]) == 0
    assert (
        daefr(["import", str(tmp_path / "released.ckpt"), str(tmp_path / "hq"), "--kind", "hq_codebook", *sizes]) == 0
    )
    from_release = run(*four, f"stages.hq_codebook.initial_checkpoint={tmp_path / 'hq'}")
    assert from_release.code == 0, from_release.err
    ours, theirs = (load_checkpoint(_last_line(result, "model")) for result in (from_release, trained))
    for name, tensor in theirs.tensors().items():
        assert torch.equal(tensor, ours.tensors()[name]), "both began with the same weights"


def _client(workdir: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{workdir}/mlflow.db")
