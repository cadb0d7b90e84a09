"""Step: let the gate decide whether a stage's candidate becomes its champion."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # run as a script: put the project on the path, and let Ray's workers find this file under its module's name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from pipelines.cli import run_step

    sys.exit(run_step("promote"))

import tempfile
from typing import Any

import torch

from daefr.checkpoint import load_checkpoint
from daefr.config import StageName
from daefr.data.dataset import FaceDataset, Fetch
from daefr.data.manifest import load_manifest
from daefr.stages import stage_from_checkpoint
from daefr.stages.config import TrainingConfig
from daefr.training.validation import validate
from pipelines import registry
from pipelines.gate import Decision, decide, measured_on
from pipelines.registry import Version
from pipelines.run import Run
from pipelines.steps import Committed, StepInput
from pipelines.synthesize import DATASET, shard_cache
from pipelines.tasks import run_task
from pipelines.tracking import Tracking

VERSION = 1


def promote(run: Run, name: StageName, trained: Committed, dataset: Committed) -> str:
    """Make the trained version the champion of its stage if the gate holds; return the decision in a line."""
    candidate = registry.version(run.tracking, name, trained.manifest.outputs["version"])
    champion = registry.champion(run.tracking, name)
    if champion is not None and champion.number == candidate.number:
        return f"{candidate.address} is the champion"
    inputs = {"trained": trained.as_input(), "dataset": dataset.as_input()}
    if champion is not None:
        inputs["champion"] = StepInput(digest=champion.fingerprint, origin=champion.address)

    def work(_: Path, run_id: str) -> tuple[dict[str, Any], list[str]]:
        decision = _decide(run, name, candidate, champion, dataset)
        outcome = "promoted" if decision.promoted else "refused"
        run.tracking.client.set_model_version_tag(
            candidate.name, str(candidate.number), "daefr.gate", f"{outcome}: {decision.reason}"
        )
        run.tracking.link(run_id, "daefr.gate", f"{outcome}: {decision.reason}")
        if decision.promoted:
            registry.promote(run.tracking, candidate)
        return {"version": candidate.number, "outcome": outcome, "reason": decision.reason}, []

    decided = run.step(f"promote_{name}", VERSION, {}, inputs, work).manifest.outputs
    return f"{candidate.address} is {decided['outcome']}: {decided['reason']}"


def _decide(run: Run, name: StageName, candidate: Version, champion: Version | None, dataset: Committed) -> Decision:
    loss = float(candidate.tags["daefr.validation_loss"])
    if champion is None:
        return decide(loss, None)
    training, folder = run.config.stages.of(name), dataset.folder / DATASET
    if champion.tags.get("daefr.measured_on") == measured_on(load_manifest(folder), training):
        return decide(loss, float(champion.tags["daefr.validation_loss"]))
    cache = shard_cache(run, folder)
    measured = run_task(f"promote_{name}", measure, run.tracking, champion, training, folder, cache)
    if measured is None:
        return Decision(True, f"the champion {champion.address} is for other image sizes than {run.config.resolution}")
    return decide(loss, measured)


def measure(
    tracking: Tracking, version: Version, training: TrainingConfig, dataset: Path, fetch: Fetch | None
) -> float | None:
    """Return a version's validation loss on a dataset, None where it cannot take images of that size."""
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = load_checkpoint(registry.download(tracking, version, Path(scratch)))
        if checkpoint.network.autoencoder.resolution != load_manifest(dataset).resolution:
            return None
        stage = stage_from_checkpoint(checkpoint, training)
        faces = FaceDataset(dataset, "validation", stage.parts, fetch=fetch)
        measured, _ = validate(stage, faces, training.batch, torch.device("cpu"))
    return measured["validation_loss"]
