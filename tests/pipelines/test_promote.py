"""The step that promotes: models that differ, on data that changes, through the real MLflow and Ray."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from daefr.checkpoint import digest_of, save_checkpoint
from daefr.data.dataset import FaceDataset
from daefr.data.manifest import NAME, list_shards, load_manifest
from daefr.data.shards import write_shard
from daefr.settings.base import StageName
from daefr.stages import Stage
from daefr.training.validation import validate
from pipelines.config import load_config
from pipelines.engine import cluster
from pipelines.engine.run import Run, open_run
from pipelines.engine.step import Committed, StepInput
from pipelines.promote import validation
from pipelines.promote.computed import Computed
from pipelines.promote.step import promote
from pipelines.synthesize.step import DATASET
from pipelines.tracking import champions, lineage, registry
from pipelines.tracking.lineage import Ancestor, tree
from tests.daefr import tiny
from tests.e2e.command import TINY

HQ = "hq_codebook"


@pytest.fixture(scope="module", autouse=True)
def _one_cluster() -> Iterator[None]:
    """One Ray for all runs of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "disconnect", lambda: None)
        yield
    cluster.disconnect()


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture
def run(workdir: Path) -> Iterator[Run]:
    with open_run(load_config(TINY, [f"workdir={workdir}"]), "promote") as opened:
        yield opened


def _with(run: Run, *overrides: str) -> Run:
    return Run(
        load_config(TINY, [f"workdir={run.workdir}", *overrides]), run.workdir, run.tracking, run.parent, run.only
    )


def _dataset(run: Run, seed: int) -> Committed:
    """A dataset with validation faces of its own, as the step `synthesize` would commit it."""

    def work(folder: Path, _: str) -> tuple[dict[str, Any], list[str]]:
        shutil.rmtree(folder / DATASET, ignore_errors=True)
        (folder / DATASET).mkdir()
        made = load_manifest(tiny.write_dataset(folder / DATASET))
        shard = write_shard(folder / DATASET / "validation-0.tar", tiny.samples(6, 1000 + seed))
        listed = list_shards(folder / DATASET / made.validation.file, [shard])
        changed = made.model_copy(update={"validation": listed})
        (folder / DATASET / NAME).write_text(changed.model_dump_json())
        return {"sources": {"train": f"12-{seed}", "validation": f"6-{seed}"}}, []

    sources = {"sources": StepInput(digest=str(seed), origin=f"faces{seed}")}
    return run.step("synthesize", 1, {"seed": seed}, sources, work)


def _trained(run: Run, dataset: Committed, name: StageName, stage: Stage, label: str) -> Committed:
    """A stage as the step that trains it would register it."""

    def work(folder: Path, run_id: str) -> tuple[dict[str, Any], list[str]]:
        checkpoint = folder / "checkpoint"
        save_checkpoint(checkpoint, name, stage.network, stage.weights(), None)
        training, manifest = run.config.stages.of(name), load_manifest(dataset.folder / DATASET)
        faces = FaceDataset(dataset.folder / DATASET, "validation", stage.parts)
        measured, _ = validate(stage, faces, training.batch, torch.device("cpu"))
        told = lineage.describe(run, name, digest_of(checkpoint), dataset, {})
        run.tracking.client.log_dict(run_id, told.model_dump(mode="json"), lineage.LINEAGE)
        version = registry.register(
            run.tracking, name, checkpoint, run_id, fingerprint=digest_of(checkpoint),
            tags=validation.tags(measured, manifest, training, Computed(device="cpu")),
        )  # fmt: skip
        return {"version": version.number, **measured}, []

    return run.step(name, 1, {"label": label}, {"dataset": dataset.as_input()}, work)


def _stage(name: StageName, noise: float, mark: float = 0) -> Stage:
    """A stage that is the worse the more noise is in its weights; `mark` changes only what validation does not see."""
    stage = tiny.build(name)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in stage.generator.parameters():
            weights.add_(noise * torch.randn(weights.shape, generator=generator))
        if stage.discriminator is not None:
            next(stage.discriminator.parameters()).add_(mark)
    return stage


def _outcome(run: Run, line: str, number: int, outcome: str, says: str) -> None:
    assert f"models:/daefr-hq-codebook/{number} " in line
    assert outcome in line
    assert says in line
    tags = registry.version(run.tracking, HQ, number).tags
    assert tags["daefr.gate"].startswith(outcome)


def test_better_worse_and_equal_on_changed_data_are_promoted_refused_and_refused(run: Run) -> None:
    noises = {1: 0.2, 2: 0.0, 3: 0.4}
    says = {1: "there is no champion", 2: "is lower than the champion's", 3: "is not lower than the champion's"}
    for number, noise in noises.items():
        dataset = _dataset(run, number)
        trained = _trained(run, dataset, HQ, _stage(HQ, noise), f"noise {noise}")
        line = promote(run, HQ, trained, dataset)
        _outcome(run, line, number, "refused" if number == 3 else "promoted", says[number])
        assert promote(run, HQ, trained, dataset).startswith(f"models:/daefr-hq-codebook/{number} is ")
    dataset = _dataset(run, 4)
    equal = _trained(run, dataset, HQ, _stage(HQ, 0.0, mark=1), "equal")
    line = promote(run, HQ, equal, dataset)
    _outcome(run, line, 4, "refused", "is not lower than the champion's")
    ours, theirs = line.partition("validation loss ")[2].split(" is not lower than the champion's ")
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)
    now = champions.reign(run.tracking, "daefr-hq-codebook")
    assert (now.champion, now.previous) == (2, 1)
    decision = run.tracking.client.get_run(now.entries[-1].run_id)
    assert decision.data.tags["daefr.gate.1"].startswith("holds: validation loss")
    assert set(decision.data.metrics) == {"candidate/validation/validation_loss", "champion/validation/validation_loss"}


def test_what_was_rolled_back_does_not_come_back_by_itself(run: Run) -> None:
    champions.roll_back(run.tracking, "daefr-hq-codebook", "it squints")
    dataset = _dataset(run, 2)
    trained = _trained(run, dataset, HQ, _stage(HQ, 0.0), "noise 0.0")
    _outcome(run, promote(run, HQ, trained, dataset), 2, "refused", "it squints")
    run.tracking.client.delete_model_version_tag("daefr-hq-codebook", "2", champions.ROLLED_BACK)
    _outcome(run, promote(run, HQ, trained, dataset), 2, "promoted", "is lower than the champion's")


def test_a_dry_run_and_a_missing_approval_leave_the_champion_alone(run: Run) -> None:
    champions.roll_back(run.tracking, "daefr-hq-codebook", "once more")
    run.tracking.client.delete_model_version_tag("daefr-hq-codebook", "2", champions.ROLLED_BACK)
    dataset = _dataset(run, 2)
    trained = _trained(run, dataset, HQ, _stage(HQ, 0.0), "noise 0.0")
    dry = _with(run, "promotion.dry_run=true")
    _outcome(run, promote(dry, HQ, trained, dataset), 2, "would be promoted", "is lower")
    strict = _with(run, "promotion.hq_codebook.approval=true")
    _outcome(run, promote(strict, HQ, trained, dataset), 2, "waits for approval", "is lower")
    assert champions.reign(run.tracking, "daefr-hq-codebook").champion == 1
    run.tracking.client.set_model_version_tag("daefr-hq-codebook", "2", champions.APPROVED, "the boss")
    _outcome(run, promote(strict, HQ, trained, dataset), 2, "promoted", "is lower")


def test_bounds_hold_for_the_first_candidate_too(run: Run) -> None:
    bounded = _with(run, "promotion.lq_codebook.gates=[{metric: dead_codes, most: 0.01}]")
    dataset = _dataset(run, 1)
    trained = _trained(run, dataset, "lq_codebook", _stage("lq_codebook", 0.0), "dead")
    line = promote(bounded, "lq_codebook", trained, dataset)
    assert "is refused: dead codes" in line
    assert "not at most 0.01" in line
    assert champions.reign(run.tracking, "daefr-lq-codebook").champion is None


def test_gates_of_restoration_look_at_its_evaluation(run: Run) -> None:
    gated = _with(
        run,
        "promotion.restoration.gates=[{metric: psnr, direction: higher, tolerance: 0.1, confidence: 0.9},"
        "{metric: ssim, least: -1}]",
        "evaluation.measures=[psnr, ssim, lpips]",
    )
    dataset = _dataset(run, 1)
    lines = [
        promote(
            gated,
            "restoration",
            _trained(run, dataset, "restoration", _stage("restoration", noise), str(noise)),
            dataset,
        )
        for noise in (0.0, 0.5)
    ]
    assert "daefr-restoration/1 is promoted: psnr" in lines[0]
    assert "psnr" in lines[1]
    assert "90% confidence" in lines[1]
    assert "6 images" in lines[1]
    missing = _with(
        gated, "promotion.restoration.gates=[{metric: lpips, most: 1}]", "evaluation.measures=[psnr, ssim, lpips]",
        f"evaluation.weights={run.workdir}",
    )  # fmt: skip
    third = _trained(run, dataset, "restoration", _stage("restoration", 0.1), "third")
    line = promote(missing, "restoration", third, dataset)
    assert "/3 is refused: lpips is unavailable: " in line


def test_lineage_is_told_from_the_registry_alone(run: Run) -> None:
    version = registry.resolve(run.tracking, "models:/daefr-hq-codebook@champion")
    shutil.rmtree(run.workdir / "steps")
    text = "\n".join(tree(Ancestor(run.tracking, version)))
    assert f"code: git {run.tracking.revision}" in text
    assert "sources: faces2, digest 2" in text
    assert "recipe mild: daefr-mild (" in text
    assert "training: steps=40" in text
    recorded = Ancestor(run.tracking, version).as_json()["recorded"]
    assert len(recorded["dataset"]["manifest"]) == 64
    assert "workdir" not in recorded["config"]
    assert "tracking" not in recorded["config"]
