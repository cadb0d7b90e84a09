"""The pretrained networks that the losses of a stage use."""

from pathlib import Path

from daefr.settings.training import AutoencoderTraining, TrainingConfig


def find_loss_weights(training: TrainingConfig) -> dict[str, Path]:
    """Find, or download, the weights files of the losses that are turned on; raises `UserError`."""
    found: dict[str, Path] = {}
    if not isinstance(training, AutoencoderTraining):
        return found
    if training.perceptual.weight:
        from daefr.losses.perceptual import find_vgg16  # noqa: PLC0415  # it imports PyTorch

        found["vgg16"] = find_vgg16(training.perceptual.vgg16)
    if training.identity.weight:
        from daefr.losses.identity import find_arcface  # noqa: PLC0415

        found["arcface"] = find_arcface(training.identity.arcface)
    return found
