"""Validation metrics of a model for gates: as training recorded them, or measured again on the candidate's images."""

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
"""How `measure_version` computes: everywhere in the same way, whatever the cluster trains on."""


def measure_version(
    tracking: Tracking, version: Version, training: TrainingConfig, dataset: Path, fetch: Fetch | None
) -> ValidationMetrics | None:
    """Validate a version on the validation faces of a dataset; None where it does not take images of that size.

    It is computed as `COMPUTED` says.
    """
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = load_checkpoint(registry.download(tracking, version, Path(scratch)))
        if checkpoint.network.autoencoder.resolution != load_manifest(dataset).resolution:
            return None
        stage = stage_from_checkpoint(checkpoint, training)
        faces = FaceDataset(dataset, "validation", stage.parts, fetch=fetch)
        metrics, _ = validate(stage, faces, training.global_batch_size, torch.device("cpu"))
    return metrics


def validation_metric(metrics: ValidationMetrics, gate: Gate, computed: ComputeInfo | None) -> GateMetric:
    """Return the validation metric that a gate asks for."""
    value = metrics.get(gate.metric, metrics.get(f"validation_{gate.metric}"))
    return GateMetric(value, "" if value is not None else "training did not measure it", computed=computed)
