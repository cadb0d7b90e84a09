"""May a candidate replace the champion? Here: if its validation loss is lower, on the same images."""

from dataclasses import dataclass

from daefr.data.manifest import DatasetManifest
from daefr.stages.config import AutoencoderTraining, RestorationTraining, TrainingConfig
from pipelines.config import digest


@dataclass(frozen=True)
class Decision:
    """Whether a candidate is promoted, and why, in a sentence."""

    promoted: bool
    reason: str


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


def decide(candidate: float, champion: float | None) -> Decision:
    """Compare the validation losses of a candidate and of the champion, if there is one."""
    if champion is None:
        return Decision(True, f"validation loss {candidate:.6g}, and there is no champion")
    if candidate < champion:
        return Decision(True, f"validation loss {candidate:.6g} is lower than the champion's {champion:.6g}")
    return Decision(False, f"validation loss {candidate:.6g} is not lower than the champion's {champion:.6g}")
