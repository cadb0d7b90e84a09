"""What is checked before the first task starts: what is missing then would stop the run hours later."""

from daefr.stages.config import AutoencoderTraining
from pipelines.config import STAGES, RunConfig


def check(config: RunConfig) -> None:
    """Find, or download, every weights file that a step needs; raises `UserError` when one cannot be had."""
    if config.data.align:
        from daefr.faces import find_detector  # noqa: PLC0415  # these import PyTorch, which takes seconds and 500 MB

        find_detector(config.data.detector)
    for name in STAGES:
        training = config.stages.of(name)
        if isinstance(training, AutoencoderTraining) and training.perceptual.weight:
            from daefr.losses.perceptual import find_vgg16  # noqa: PLC0415

            find_vgg16(training.perceptual.vgg16)
        if isinstance(training, AutoencoderTraining) and training.identity.weight:
            from daefr.losses.identity import find_arcface  # noqa: PLC0415

            find_arcface(training.identity.arcface)
