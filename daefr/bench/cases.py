"""What is measured: one training step of each stage, or the restoration of images, on random weights and images."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

import safetensors.torch
import torch
from torch import Tensor

from daefr.bench.reference_way import ReferenceOptimization, compute_as_reference, restore_as_reference
from daefr.data.dataset import Batch
from daefr.losses.perceptual import PerceptualLoss
from daefr.restore import FOR_RESTORING
from daefr.settings.base import StageName
from daefr.settings.network import NetworkConfig
from daefr.settings.training import (
    AssociationTraining,
    AutoencoderTraining,
    PerceptualConfig,
    RestorationTraining,
    TrainingConfig,
)
from daefr.speed import Speed
from daefr.stages import RestorationStage, Stage, build_stage
from daefr.training.optimization import Optimization
from daefr.training.state import TrainingState

CaseName = Literal["hq_codebook", "association", "restoration", "restore"]
Side = Literal["ours", "reference"]
CASES: tuple[CaseName, ...] = get_args(CaseName)

DEFAULT_SPEED = Speed()
REFERENCE_SPEED = Speed(channels_last=False, autocast="off", compile=False, keep_memory=False)


@dataclass(frozen=True)
class Case:
    """One thing to measure; both sides get the same weights and images."""

    name: CaseName
    network: NetworkConfig
    batch: int
    device: str = "cpu"
    speed: Speed = DEFAULT_SPEED
    """Of our side. The reference's is always float32, channels first and not compiled, and keeps no memory."""

    def prepare(self, side: Side) -> Callable[[], dict[str, Tensor]]:
        """Build one side; what is returned runs it once and returns its scalars."""
        device = torch.device(self.device)
        stage, training = build_side(self, side)
        speed = training.speed
        speed.prepare(stage, device).train()
        images = speed.arrange(random_images(self.network.autoencoder.resolution, self.batch), device)
        if self.name == "restore":
            return _restoration(stage, images, side, speed, device)
        state = TrainingState(stage, training)
        optimization: Step = Optimization(state, device) if side == "ours" else ReferenceOptimization(state)
        return lambda: optimization.step(images)[1]


class Step(Protocol):
    """Takes one training step."""

    def step(self, images: Batch) -> tuple[object, dict[str, Tensor]]:
        """Return an output and the scalars of the step."""


def random_images(resolution: int, batch: int) -> Batch:
    """Return `hq` and `lq`, (B, 3, R, R) in [-1, 1]; the same each time."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, 3, resolution, resolution)
    return {name: torch.rand(shape, generator=generator) * 2 - 1 for name in ("hq", "lq")}


def _restoration(
    stage: Stage, images: Batch, side: Side, speed: Speed, device: torch.device
) -> Callable[[], dict[str, Tensor]]:
    assert isinstance(stage, RestorationStage)  # noqa: S101  # by its name
    model = stage.generator.eval()

    def restore() -> dict[str, Tensor]:
        if side == "reference":
            return {"mean": restore_as_reference(model, images["lq"]).mean()}
        with speed.autocast_on(device):
            return {"mean": model.restore(images["lq"]).image.mean()}

    return restore


def build_side(case: Case, side: Side) -> tuple[Stage, TrainingConfig]:
    """Build one side's stage, and what it is trained with; both sides have the same weights."""
    name: StageName = "restoration" if case.name == "restore" else case.name
    training = _training(name, _speed(case) if side == "ours" else REFERENCE_SPEED)
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(training, AutoencoderTraining):
            # what the perceptual network has learned makes no difference to its cost
            perceptual = PerceptualConfig(vgg16=_random_vgg16(Path(folder) / "vgg16.safetensors"))
            training = training.model_copy(update={"perceptual": perceptual})
        stage = build_stage(name, case.network, training)
    if side == "reference":
        compute_as_reference(stage)
    return stage, training


def _speed(case: Case) -> Speed:
    if case.name != "restore" or case.speed.channels_last is not None:
        return case.speed
    return case.speed.model_copy(update={"channels_last": FOR_RESTORING.channels_last})


def _training(name: StageName, speed: Speed) -> TrainingConfig:
    if name == "restoration":
        return RestorationTraining(steps=1, speed=speed)
    # from the start with the discriminators, as most of a training is
    kind = AssociationTraining if name == "association" else AutoencoderTraining
    return kind.model_validate({"steps": 1, "adversarial": {"start": 0}, "speed": speed})


def _random_vgg16(path: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = PerceptualLoss().net.state_dict()
    safetensors.torch.save_file(
        {f"features.{name.partition('.')[2]}": weight for name, weight in weights.items()}, path
    )
    return path
