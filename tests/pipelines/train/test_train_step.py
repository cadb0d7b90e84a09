"""The parts of the training step, each alone: no cluster runs here, and nothing is trained."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from daefr.checkpoint import TRAINER, load_checkpoint, save_checkpoint
from daefr.errors import UserError
from pipelines.engine.dataset import DATASET, Dataset
from pipelines.engine.lineage import LINEAGE
from pipelines.engine.run import Run
from pipelines.engine.step import MANIFEST, StepContext, StepManifest, StepResult
from pipelines.engine.validation import recorded_metrics
from pipelines.errors import StepFailedError
from pipelines.tracking import registry
from pipelines.tracking.client import Tracking
from pipelines.train import step as train_step
from pipelines.train.checkpoints import Checkpoints, checkpoint_name
from pipelines.train.initial import InitialWeights
from pipelines.train.job import TrainingJob
from pipelines.train.publish import AVERAGED, CHECKPOINT, publish_checkpoints
from pipelines.train.settings import StageCompute
from pipelines.train.step import TrainStage
from tests.daefr import tiny

HQ = "hq_codebook"


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    folder = tmp_path_factory.mktemp("mlflow")
    return Tracking.open(f"sqlite:///{folder}/mlflow.db", "test", str(folder / "artifacts"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("synthesize")
    (folder / DATASET).mkdir()
    tiny.write_dataset(folder / DATASET)
    manifest = StepManifest(
        step="synthesize", version=1, fingerprint="f", settings={"seed": 1}, inputs={}, files=[], run_id="", seconds=0,
        outputs={"sources": {"train": "a", "validation": "b"}}, revision="", finished=datetime.now(UTC),
    )  # fmt: skip
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return Dataset(StepResult(folder, manifest), Path("cache"), 10**9)


@pytest.fixture
def stage(dataset: Dataset) -> TrainStage:
    return TrainStage(
        stage=HQ,
        network=tiny.NETWORK,
        training=tiny.settings(HQ, steps=3),
        seed=1,
        dataset=dataset,
        initial=InitialWeights(),
        upstream={},
        compute=StageCompute(),
        run_config={"seed": 1},
    )


@dataclass
class _Refresh:
    """Generations that are there as soon as the training runs."""

    epochs: int = 2
    generations: int = 1
    ran: list[bool] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        yield
        self.ran.append(True)

    def digests(self) -> dict[int, str]:
        return {1: "digest of the first"}


def _intermediate(checkpoints: Checkpoints, folder: Path, step: int, average: bool = False) -> None:
    stage = tiny.build(HQ)
    weights = stage.weights()
    source = folder / f"made-{step}"
    averages = {name: torch.zeros_like(tensor) for name, tensor in list(weights.items())[:1]} if average else None
    save_checkpoint(source, HQ, stage.network, weights, {"step": step}, average=averages)
    checkpoints.put(source, checkpoint_name(step))


def test_what_changes_the_result_is_in_the_key_and_what_it_runs_on_is_not(stage: TrainStage) -> None:
    key = stage.key()
    assert key.name == HQ
    assert set(key.settings) == {"training", "network", "seed"}
    assert set(key.inputs) == {"dataset"}
    others = {
        "seed": replace(stage, seed=2),
        "refresh": replace(stage, refresh=_Refresh()),
        "training": replace(stage, training=tiny.settings(HQ, steps=4)),
    }
    assert len({key.fingerprint, *(other.key().fingerprint for other in others.values())}) == 4
    elsewhere = replace(stage, compute=StageCompute(workers=2), intermediate="s3://bucket/x", unavailable_timeout_s=9)
    assert elsewhere.key().fingerprint == key.fingerprint


def test_the_stages_before_and_their_champions_are_inputs(stage: TrainStage, dataset: Dataset) -> None:
    version = registry.Version("daefr-hq-codebook", 3, "", "", {})
    later = replace(
        stage, stage="association", upstream={HQ: dataset.result}, initial=InitialWeights(champions={HQ: version})
    )
    assert set(later.inputs()) == {"dataset", HQ, f"{HQ}_champion"}
    assert later.inputs()[f"{HQ}_champion"].origin == version.address
    assert later.initial.tags() == {f"daefr.upstream.{HQ}": version.address}


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (None, "{workdir}/checkpoints/"),
        ("s3://bucket/prefix/", "s3://bucket/prefix/"),
        ("/shared", "/shared/"),
    ],
)
def test_intermediate_checkpoints_are_in_the_run_directory_or_below_the_place_that_is_set(
    stage: TrainStage, tmp_path: Path, place: str | None, expected: str
) -> None:
    found = replace(stage, intermediate=place).intermediate_checkpoints(tmp_path)
    assert found.location.startswith(expected.format(workdir=tmp_path) + HQ)


def test_only_trainings_that_are_equal_until_the_shorter_one_ends_share_their_checkpoints(
    stage: TrainStage, tmp_path: Path
) -> None:
    def location(**changes: Any) -> str:
        changed = replace(stage, training=tiny.settings(HQ, **{"steps": 3, "milestones": (), **changes}))
        return changed.intermediate_checkpoints(tmp_path).location

    assert location(steps=4) == location(steps=3) == location(log_every_n_steps=7)
    assert location(global_batch_size=8) != location()
    assert location(lr_scheduler="cosine", steps=4) != location(lr_scheduler="cosine", steps=3)
    assert replace(stage, seed=7).intermediate_checkpoints(tmp_path).location != location()


def test_weights_of_a_loss_count_by_their_content(stage: TrainStage, tmp_path: Path) -> None:
    def fingerprint(file: str, content: str) -> str:
        (tmp_path / file).write_text(content)
        perceptual = {"weight": 1, "vgg16": str(tmp_path / file)}
        changed = replace(stage, training=tiny.settings(HQ, steps=3, perceptual=perceptual))
        assert changed.inputs()["vgg16"].origin == str(tmp_path / file)
        return changed.key().fingerprint

    assert fingerprint("a", "weights") == fingerprint("b", "weights") != fingerprint("a", "others")


def test_a_start_is_a_checkpoint_or_a_version_and_a_missing_champion_an_error(
    tracking: Tracking, tmp_path: Path
) -> None:
    folder = tiny.checkpoint(tmp_path / "checkpoint", tiny.build(HQ)).path
    assert InitialWeights.find(tracking, HQ, str(folder)).checkpoint == folder
    assert set(InitialWeights(folder).inputs()) == {"start"}
    released = tmp_path / "released.ckpt"
    torch.save({"params": {"module.loss.discriminator.main.0.weight": torch.ones(1)}}, released)
    start = InitialWeights.find(tracking, HQ, str(released))
    assert (start.checkpoint, start.inputs()["start"].origin) == (released, str(released))
    with pytest.raises(UserError, match=r"hq_codebook.*restoration"):
        InitialWeights.find(tracking, "restoration", str(released))
    assert InitialWeights(folder).tags() == {"daefr.start": str(folder)}
    assert InitialWeights.find(tracking, HQ, None) == InitialWeights()
    with pytest.raises(UserError):
        InitialWeights.find(tracking, "association", None)
    with pytest.raises(UserError):
        InitialWeights.find(tracking, HQ, "models:/nothing@champion")


def test_what_is_published_has_the_weights_of_the_last_step_only(tmp_path: Path) -> None:
    checkpoints, folder = Checkpoints(str(tmp_path / "ray")), tmp_path / "step"
    (folder / CHECKPOINT).mkdir(parents=True)
    (folder / CHECKPOINT / "left by an attempt before").touch()
    _intermediate(checkpoints, tmp_path, 3, average=True)
    assert publish_checkpoints(checkpoints, 3, folder, averaged=True) == [CHECKPOINT, AVERAGED]
    last, averaged = load_checkpoint(folder / CHECKPOINT), load_checkpoint(folder / AVERAGED)
    assert not (last.path / TRAINER).exists()
    name = next(iter(last.tensors()))
    assert not averaged.tensors()[name].any()
    assert {path.name for path in folder.iterdir()} == {CHECKPOINT, AVERAGED}
    assert {path.name for path in last.path.iterdir()} == {"model.safetensors", "config.json", "manifest.json"}


def test_a_damaged_last_checkpoint_is_a_failed_step(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path / "ray"))
    _intermediate(checkpoints, tmp_path, 3)
    (tmp_path / "ray" / checkpoint_name(3) / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(StepFailedError):
        publish_checkpoints(checkpoints, 3, tmp_path / "step", averaged=False)
    assert not (tmp_path / "step" / CHECKPOINT).exists()


def test_a_finished_training_is_published_recorded_and_registered(
    stage: TrainStage, tracking: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refresh = _Refresh()
    stage = replace(stage, refresh=refresh, training=tiny.settings(HQ, steps=3, ema_decay=0.9))
    jobs: list[TrainingJob] = []

    def fit(job: TrainingJob) -> dict[str, float]:
        jobs.append(job)
        _intermediate(job.checkpoints, tmp_path, 3, average=True)
        return {"validation_loss": 0.5, "ema_validation_loss": 0.25}

    monkeypatch.setattr(train_step, "fit", fit)
    monkeypatch.setattr(train_step, "ray", Mock())
    monkeypatch.setattr(train_step, "cluster", Mock(reserve=Mock(return_value=nullcontext())))
    parent = tracking.start_run("train", "train")
    result = Run(tmp_path / "run", tracking, parent).execute(stage)

    assert jobs[0].refresh == 2
    assert refresh.ran == [True]
    assert result.outputs["generation_1"] == "digest of the first"
    assert jobs[0].checkpoints.names() == [checkpoint_name(3)], "a longer training can resume from it"
    version, averaged = (registry.version(tracking, HQ, result.outputs[key]) for key in ("version", "ema_version"))
    for each, loss in ((version, 0.5), (averaged, 0.25)):
        metrics = recorded_metrics(each, stage.dataset.manifest, stage.training)
        assert metrics is not None
        assert metrics["validation_loss"] == loss
    assert averaged.tags["daefr.weights"] == "ema"
    assert registry.aliases(tracking, version.name) == {"candidate": version.number, "averaged": averaged.number}
    assert LINEAGE in {each.path for each in tracking.client.list_artifacts(result.manifest.run_id)}
    assert stage.key().folder == result.folder.name


def test_a_job_has_what_the_workers_need(
    stage: TrainStage, tracking: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_step, "ray", Mock())
    job = stage.job(StepContext(tmp_path, tmp_path, tracking, "run", "parent"))
    assert (job.stage, job.seed, job.run_id, job.refresh, job.initial_checkpoint) == (HQ, 1, "run", None, None)
    assert job.dataset == stage.dataset.folder
    assert job.fetch is None, "the shards are beside their manifest"
