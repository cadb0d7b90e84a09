"""What is checked before the first task starts: what is missing then would stop the run hours later."""

from daefr.errors import UserError
from daefr.settings.base import STAGES
from daefr.settings.training import AutoencoderTraining
from pipelines.config import RunConfig
from pipelines.promote.settings import OF_EVALUATION, measure_of


def check(config: RunConfig) -> None:
    """Find, or download, every weights file that a step needs, and the places of the benchmarks; raises `UserError`.

    Measures that cannot be had stop nothing: the figures say so.
    """
    if config.evaluation.benchmarks:
        from pipelines.evaluate.benchmarks import check_places  # noqa: PLC0415  # it imports PyTorch, like those below

        check_places(config.evaluation.benchmarks)
    for path in (config.evaluation.weights, config.evaluation.fid_statistics):
        if path is not None and not path.exists():
            raise UserError(f"{path}, which the evaluation should use, is not there")
    if config.data.align:
        from daefr.faces.detector import find_detector  # noqa: PLC0415

        find_detector(config.data.detector)
    for name in STAGES:
        training = config.stages.of(name)
        if isinstance(training, AutoencoderTraining) and training.perceptual.weight:
            from daefr.losses.perceptual import find_vgg16  # noqa: PLC0415

            find_vgg16(training.perceptual.vgg16)
        if isinstance(training, AutoencoderTraining) and training.identity.weight:
            from daefr.losses.identity import find_arcface  # noqa: PLC0415

            find_arcface(training.identity.arcface)


def remarks(config: RunConfig) -> list[str]:
    """Say what a run goes on without: the perceptual term, which the method has, and figures that gates will want."""
    without = [
        name
        for name in STAGES
        if isinstance(training := config.stages.of(name), AutoencoderTraining) and not training.perceptual.weight
    ]
    lines = [f"without the perceptual term, as perceptual.weight=0: {', '.join(without)}"] if without else []
    wanted = [gate.metric for gate in config.promotion.restoration.gates if gate.metric in OF_EVALUATION]
    return lines + (_unavailable(config, wanted) if wanted else [])


def _unavailable(config: RunConfig, metrics: list[str]) -> list[str]:
    import torch  # noqa: PLC0415

    from daefr.metrics.registry import Setup, find_files  # noqa: PLC0415

    evaluation = config.evaluation
    setup = Setup(evaluation.protocol, torch.device("cpu"), evaluation.weights, evaluation.fid_statistics)
    lines = []
    for metric in metrics:
        try:
            find_files(measure_of(metric), setup)
        except UserError as error:
            lines.append(f"a gate of restoration cannot hold, as {metric} is unavailable: {error}")
    return lines
