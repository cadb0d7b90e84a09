"""Validation metrics for gates: as recorded by training, or computed again on the candidate's validation faces."""

import tempfile
from pathlib import Path

import torch

from daefr.checkpoint import load_checkpoint
from daefr.data.dataset import FaceDataset
from daefr.data.manifest import Fetch, load_manifest
from daefr.settings.training import TrainingConfig
from daefr.stages import stage_from_checkpoint
from daefr.training.validation import validate
from pipelines.engine.compute_info import ComputeInfo
from pipelines.engine.validation import ValidationMetrics
from pipelines.promote.gates import GateMetric
from pipelines.promote.settings import Gate
from pipelines.tracking import registry
from pipelines.tracking.client import Tracking
from pipelines.tracking.registry import Version

COMPUTED = ComputeInfo(device="cpu")
"""How `validate_version` computes, whatever the cluster trains on."""


def validate_version(
    tracking: Tracking, version: Version, training: TrainingConfig, dataset: Path, fetch: Fetch | None
) -> ValidationMetrics | None:
    """Validate a version on a dataset's validation faces; None if it is for another resolution."""
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = load_checkpoint(registry.download(tracking, version, Path(scratch)))
        if checkpoint.network.autoencoder.resolution != load_manifest(dataset).resolution:
            return None
        stage = stage_from_checkpoint(checkpoint, training)
        faces = FaceDataset(dataset, "validation", stage.parts, fetch=fetch)
        metrics, _ = validate(stage, faces, training.global_batch_size, torch.device("cpu"))
    return metrics


def validation_metric(metrics: ValidationMetrics, gate: Gate, computed: ComputeInfo | None) -> GateMetric:
    """Return the validation metric that a gate needs."""
    value = metrics.get(gate.metric, metrics.get(f"validation_{gate.metric}"))
    return GateMetric(value, "" if value is not None else "it was not computed in training", computed=computed)
