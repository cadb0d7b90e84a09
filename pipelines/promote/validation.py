"""What training measured of a model on the validation faces, and measuring another one on the same."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

from daefr.checkpoint import load_checkpoint
from daefr.data.dataset import FaceDataset, Fetch
from daefr.data.manifest import DatasetManifest, load_manifest
from daefr.settings.training import AutoencoderTraining, RestorationTraining, TrainingConfig
from daefr.stages import stage_from_checkpoint
from daefr.training.validation import validate
from pipelines.engine.digest import digest
from pipelines.promote.computed import Computed
from pipelines.promote.gates import Figure
from pipelines.promote.settings import Gate
from pipelines.tracking import registry
from pipelines.tracking.client import Tracking
from pipelines.tracking.registry import Version

Measured = Mapping[str, float]

MEASURED = "daefr.validation"
MEASURED_ON = "daefr.measured_on"
COMPUTED = "daefr.computed"
MEASURED_HERE = Computed(device="cpu")
"""How `measure` computes: everywhere in the same way, whatever the cluster trains on."""


def tags(measured: Measured, manifest: DatasetManifest, training: TrainingConfig, computed: Computed) -> dict[str, str]:
    """Return what a version tells of its validation."""
    return {
        "daefr.validation_loss": repr(measured["validation_loss"]),
        MEASURED: json.dumps(measured),
        MEASURED_ON: measured_on(manifest, training),
        COMPUTED: computed.model_dump_json(),
    }


def computed(version: Version) -> Computed | None:
    """Return how a version's validation was computed, None where that was not recorded."""
    tag = version.tags.get(COMPUTED)
    return None if tag is None else Computed.model_validate_json(tag)


def measured_on(manifest: DatasetManifest, training: TrainingConfig) -> str:
    """Return a digest of what a validation loss depends on beside the model: losses with equal ones compare."""
    weights: dict[str, float] = {}
    if isinstance(training, AutoencoderTraining):
        weights["perceptual"] = training.perceptual.weight
        weights["identity"] = training.identity.weight
    if isinstance(training, RestorationTraining):
        weights["feature"] = training.feature_weight
    # a contrastive loss also depends on who shares a batch with whom
    return digest({"validation": manifest.digest("validation"), "batch": training.batch, "weights": weights})


def recorded(version: Version, manifest: DatasetManifest, training: TrainingConfig) -> Measured | None:
    """Return what a version was measured to be on the same images and with the same weights, if it was."""
    if version.tags.get(MEASURED_ON) != measured_on(manifest, training) or MEASURED not in version.tags:
        return None
    return dict(json.loads(version.tags[MEASURED]))


def measure(
    tracking: Tracking, version: Version, training: TrainingConfig, dataset: Path, fetch: Fetch | None
) -> Measured | None:
    """Measure a version on the validation faces of a dataset; None where it cannot take images of that size.

    It is computed as `MEASURED_HERE` says.
    """
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = load_checkpoint(registry.download(tracking, version, Path(scratch)))
        if checkpoint.network.autoencoder.resolution != load_manifest(dataset).resolution:
            return None
        stage = stage_from_checkpoint(checkpoint, training)
        faces = FaceDataset(dataset, "validation", stage.parts, fetch=fetch)
        measured, _ = validate(stage, faces, training.batch, torch.device("cpu"))
    return measured


def figure(measured: Measured, gate: Gate, computed: Computed | None) -> Figure:
    """Return what training measured for a gate."""
    value = measured.get(gate.metric, measured.get(f"validation_{gate.metric}"))
    return Figure(value, "" if value is not None else "training did not measure it", computed=computed)
