"""The step that promotes: models that differ, on data that changes, through the real MLflow and Ray."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from daefr.checkpoint import checkpoint_digest, save_checkpoint
from daefr.data.dataset import FaceDataset
from daefr.data.manifest import NAME, list_shards, load_manifest
from daefr.data.shards import write_shard
from daefr.settings.base import StageName
from daefr.stages import Stage
from daefr.training.validation import validate
from pipelines.chain import Chain, open_chain
from pipelines.config import RunConfig, load_config
from pipelines.engine import cluster
from pipelines.engine.compute_info import ComputeInfo
from pipelines.engine.dataset import DATASET, Dataset
from pipelines.engine.lineage import LINEAGE, Lineage, describe_dataset
from pipelines.engine.step import Step, StepContext, StepInput, StepOutput, StepResult
from pipelines.engine.validation import validation_tags
from pipelines.promote.lineage import Ancestor, tree
from pipelines.tracking import champions, registry
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
def chain(workdir: Path) -> Iterator[Chain]:
    with open_chain(load_config(TINY, [f"workdir={workdir}"]), "promote") as opened:
        yield opened


def _with(chain: Chain, *overrides: str) -> Chain:
    return Chain(load_config(TINY, [f"workdir={chain.run.workdir}", *overrides]), chain.run)


@dataclass(frozen=True)
class _Synthesized(Step):
    """Leaves a dataset with validation faces of its own, as the step `synthesize` would."""

    seed: int

    name = "synthesize"
    version = 1

    def settings(self) -> dict[str, Any]:
        return {"seed": self.seed}

    def inputs(self) -> dict[str, StepInput]:
        return {"sources": StepInput(digest=str(self.seed), origin=f"faces{self.seed}")}

    def run(self, context: StepContext) -> StepOutput:
        folder = context.folder / DATASET
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        made = load_manifest(tiny.write_dataset(folder))
        shard = write_shard(folder / "validation-0.tar", tiny.samples(6, 1000 + self.seed))
        changed = made.model_copy(update={"validation": list_shards(folder / made.validation.file, [shard])})
        (folder / NAME).write_text(changed.model_dump_json())
        return StepOutput({"sources": {"train": f"12-{self.seed}", "validation": f"6-{self.seed}"}})


def _dataset(chain: Chain, seed: int) -> Dataset:
    return Dataset(chain.run.execute(_Synthesized(seed)), Path("unused"), 0)


@dataclass(frozen=True)
class _Trained(Step):
    """Registers a stage as the step that trains it would."""

    config: RunConfig
    dataset: Dataset
    stage: Stage
    stage_name: StageName
    label: str

    version = 1

    @property
    def name(self) -> str:
        return self.stage_name

    def settings(self) -> dict[str, Any]:
        return {"label": self.label}

    def inputs(self) -> dict[str, StepInput]:
        return {"dataset": self.dataset.as_input()}

    def run(self, context: StepContext) -> StepOutput:
        checkpoint, stage, name = context.folder / "checkpoint", self.stage, self.stage_name
        save_checkpoint(checkpoint, name, stage.network, stage.weights(), None)
        training, digest = self.config.stages.of(name), checkpoint_digest(checkpoint)
        faces = FaceDataset(self.dataset.folder, "validation", stage.parts)
        measured, _ = validate(stage, faces, training.global_batch_size, torch.device("cpu"))
        lineage = Lineage(
            stage=name, checkpoint=digest, revision=context.tracking.revision, config={},
            changed={"training": training.model_dump(mode="json", exclude_defaults=True)},
            dataset=describe_dataset(self.dataset), upstream={},
        )  # fmt: skip
        context.tracking.client.log_dict(context.run_id, lineage.model_dump(mode="json"), LINEAGE)
        version = registry.register(
            context.tracking, name, checkpoint, context.run_id, fingerprint=digest,
            tags=validation_tags(measured, self.dataset.manifest, training, ComputeInfo(device="cpu")),
        )  # fmt: skip
        return StepOutput({"version": version.number, **measured})


def _trained(chain: Chain, dataset: Dataset, name: StageName, stage: Stage, label: str) -> StepResult:
    return chain.run.execute(_Trained(chain.config, dataset, stage, name, label))


def _stage(name: StageName, noise: float, mark: float = 0) -> Stage:
    """A stage with noise in its weights, which makes it worse; `mark` changes only weights that validation ignores."""
    stage = tiny.build(name)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in stage.generator.parameters():
            weights.add_(noise * torch.randn(weights.shape, generator=generator))
        if stage.discriminator is not None:
            next(stage.discriminator.parameters()).add_(mark)
    return stage


def _outcome(chain: Chain, line: str, number: int, outcome: str, reason: str = "") -> None:
    assert f"models:/daefr-hq-codebook/{number} " in line
    assert outcome in line
    assert reason in line
    tags = registry.version(chain.run.tracking, HQ, number).tags
    assert tags["daefr.gate"].startswith(outcome)


def test_better_worse_and_equal_on_changed_data_are_promoted_refused_and_refused(chain: Chain) -> None:
    noises = {1: 0.2, 2: 0.0, 3: 0.4}
    for number, noise in noises.items():
        dataset = _dataset(chain, number)
        trained = _trained(chain, dataset, HQ, _stage(HQ, noise), f"noise {noise}")
        line = chain.promote(HQ, trained, dataset)
        _outcome(chain, line, number, "refused" if number == 3 else "promoted")
        assert chain.promote(HQ, trained, dataset).startswith(f"models:/daefr-hq-codebook/{number} is ")
    dataset = _dataset(chain, 4)
    equal = _trained(chain, dataset, HQ, _stage(HQ, 0.0, mark=1), "equal")
    line = chain.promote(HQ, equal, dataset)
    _outcome(chain, line, 4, "refused")
    ours, theirs = re.findall(r" (0\.\d+)\b", line)[:2]
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)
    now = champions.champion_state(chain.run.tracking, "daefr-hq-codebook")
    assert (now.champion, now.previous) == (2, 1)
    decision = chain.run.tracking.client.get_run(now.entries[-1].run_id)
    assert decision.data.tags["daefr.gate.1"].startswith("passed: validation loss")
    assert set(decision.data.metrics) == {"candidate/validation/validation_loss", "champion/validation/validation_loss"}


def test_what_was_rolled_back_does_not_come_back_by_itself(chain: Chain) -> None:
    champions.roll_back(chain.run.tracking, "daefr-hq-codebook", "it squints")
    dataset = _dataset(chain, 2)
    trained = _trained(chain, dataset, HQ, _stage(HQ, 0.0), "noise 0.0")
    _outcome(chain, chain.promote(HQ, trained, dataset), 2, "refused", "it squints")
    chain.run.tracking.client.delete_model_version_tag("daefr-hq-codebook", "2", champions.ROLLED_BACK)
    _outcome(chain, chain.promote(HQ, trained, dataset), 2, "promoted")


def test_a_dry_run_and_a_missing_approval_leave_the_champion_alone(chain: Chain) -> None:
    champions.roll_back(chain.run.tracking, "daefr-hq-codebook", "once more")
    chain.run.tracking.client.delete_model_version_tag("daefr-hq-codebook", "2", champions.ROLLED_BACK)
    dataset = _dataset(chain, 2)
    trained = _trained(chain, dataset, HQ, _stage(HQ, 0.0), "noise 0.0")
    dry = _with(chain, "promotion.dry_run=true")
    _outcome(chain, dry.promote(HQ, trained, dataset), 2, "would be promoted")
    strict = _with(chain, "promotion.hq_codebook.require_approval=true")
    _outcome(chain, strict.promote(HQ, trained, dataset), 2, "waits for approval")
    assert champions.champion_state(chain.run.tracking, "daefr-hq-codebook").champion == 1
    chain.run.tracking.client.set_model_version_tag("daefr-hq-codebook", "2", champions.APPROVED, "the boss")
    _outcome(chain, strict.promote(HQ, trained, dataset), 2, "promoted")


def test_bounds_hold_for_the_first_candidate_too(chain: Chain) -> None:
    bounded = _with(chain, "promotion.lq_codebook.gates=[{metric: dead_codes, max_value: 0.01}]")
    dataset = _dataset(chain, 1)
    trained = _trained(chain, dataset, "lq_codebook", _stage("lq_codebook", 0.0), "dead")
    line = bounded.promote("lq_codebook", trained, dataset)
    assert "is refused: dead codes" in line
    assert "0.01" in line
    assert champions.champion_state(chain.run.tracking, "daefr-lq-codebook").champion is None


def test_gates_of_restoration_look_at_its_evaluation(chain: Chain) -> None:
    gated = _with(
        chain,
        "promotion.restoration.gates=[{metric: psnr, direction: higher, max_regression: 0.1, confidence: 0.9},"
        "{metric: ssim, min_value: -1}]",
        "evaluation.metrics=[psnr, ssim, lpips]",
    )
    dataset = _dataset(chain, 1)
    lines = [
        gated.promote(
            "restoration",
            _trained(chain, dataset, "restoration", _stage("restoration", noise), str(noise)),
            dataset,
        )
        for noise in (0.0, 0.5)
    ]
    assert "daefr-restoration/1 is promoted: psnr" in lines[0]
    assert "psnr" in lines[1]
    assert "90%" in lines[1]
    assert "6 images" in lines[1]
    missing = _with(
        gated, "promotion.restoration.gates=[{metric: lpips, max_value: 1}]", "evaluation.metrics=[psnr, ssim, lpips]",
        f"evaluation.weights={chain.run.workdir}",
    )  # fmt: skip
    third = _trained(chain, dataset, "restoration", _stage("restoration", 0.1), "third")
    line = missing.promote("restoration", third, dataset)
    assert "/3 is refused: lpips" in line


def test_lineage_is_read_from_the_registry_alone(chain: Chain) -> None:
    version = registry.resolve(chain.run.tracking, "models:/daefr-hq-codebook@champion")
    shutil.rmtree(chain.run.workdir / "steps")
    text = "\n".join(tree(Ancestor(chain.run.tracking, version)))
    assert f"code: git {chain.run.tracking.revision}" in text
    assert "sources: faces2, digest 2" in text
    assert "recipe mild: daefr-mild (" in text
    assert "training: steps=40" in text
    recorded = Ancestor(chain.run.tracking, version).as_json()["recorded"]
    assert len(recorded["dataset"]["manifest"]) == 64
