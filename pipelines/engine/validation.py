"""The validation metrics of a model version: training records them as tags, promotion reads them."""

import json
from collections.abc import Mapping

from daefr.data.manifest import DatasetManifest
from daefr.settings.training import AutoencoderTraining, RestorationTraining, TrainingConfig
from pipelines.engine.compute_info import ComputeInfo
from pipelines.engine.digest import digest
from pipelines.tracking.registry import Version

ValidationMetrics = Mapping[str, float]

METRICS = "daefr.validation"
COMPUTED = "daefr.computed"
MEASURED_ON = "daefr.measured_on"


def validation_tags(
    metrics: ValidationMetrics, manifest: DatasetManifest, training: TrainingConfig, computed: ComputeInfo
) -> dict[str, str]:
    """Return the tags that record the validation metrics of a version."""
    return {
        "daefr.validation_loss": repr(metrics["validation_loss"]),
        METRICS: json.dumps(metrics),
        MEASURED_ON: comparable_digest(manifest, training),
        COMPUTED: computed.model_dump_json(),
    }


def comparable_digest(manifest: DatasetManifest, training: TrainingConfig) -> str:
    """Return a digest of everything but the model that a validation loss depends on.

    Losses with equal digests are comparable.
    """
    weights: dict[str, float] = {}
    if isinstance(training, AutoencoderTraining):
        weights["perceptual"] = training.perceptual.weight
        weights["identity"] = training.identity.weight
    if isinstance(training, RestorationTraining):
        weights["feature"] = training.feature_weight
    # the contrastive loss depends on the batches
    return digest(
        {"validation": manifest.digest("validation"), "batch": training.global_batch_size, "weights": weights}
    )


def recorded_metrics(version: Version, manifest: DatasetManifest, training: TrainingConfig) -> ValidationMetrics | None:
    """Return a version's recorded metrics; None unless they are for the same images and loss weights."""
    if version.tags.get(MEASURED_ON) != comparable_digest(manifest, training) or METRICS not in version.tags:
        return None
    return dict(json.loads(version.tags[METRICS]))


def recorded_computed(version: Version) -> ComputeInfo | None:
    """Return how a version's metrics were computed, None if that was not recorded."""
    tag = version.tags.get(COMPUTED)
    return None if tag is None else ComputeInfo.model_validate_json(tag)
