"""Profiles training steps and restoration on a device, with random weights and images."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple, get_args

import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from daefr.data.dataset import Batch
from daefr.errors import UserError
from daefr.losses.perceptual import PerceptualLoss
from daefr.restore import FOR_RESTORING
from daefr.settings.base import StageName
from daefr.settings.network import AutoencoderConfig, NetworkConfig
from daefr.settings.speed import Speed
from daefr.settings.training import (
    AdversarialConfig,
    AssociationTraining,
    AutoencoderTraining,
    PerceptualConfig,
    RestorationTraining,
    TrainingConfig,
)
from daefr.speed import arrange_batch, autocast, prepare_network
from daefr.stages import RestorationStage, Stage, build_stage
from daefr.training.metrics import peak_bytes
from daefr.training.optimization import Optimization
from daefr.training.state import TrainingState

CaseName = Literal["hq_codebook", "association", "restoration", "restore"]
CASES: tuple[CaseName, ...] = get_args(CaseName)
"""A training step of each kind of stage, and restoration."""

DEFAULT_SPEED = Speed()
Run = Callable[[], dict[str, Tensor]]
"""Runs a case once and returns its scalars, on the device."""


@dataclass(frozen=True)
class Case:
    """What is profiled; equal cases have the same weights and images."""

    name: CaseName
    network: NetworkConfig
    batch: int
    device: str = "cpu"
    speed: Speed = DEFAULT_SPEED

    def build(self) -> tuple[Stage, TrainingConfig]:
        """Build the stage, on the CPU, and the settings of its training."""
        name: StageName = "restoration" if self.name == "restore" else self.name
        with tempfile.TemporaryDirectory() as folder:
            training = training_settings(name, self._speed(), Path(folder))
            return build_stage(name, self.network, training), training

    def prepare(self) -> Run:
        """Build the case on its device."""
        device = torch.device(self.device)
        stage, training = self.build()
        speed = training.speed
        prepare_network(stage, speed, device).train()
        images = arrange_batch(random_images(self.network.autoencoder.resolution, self.batch), speed, device)
        if self.name == "restore":
            return _restoration(stage, images, speed, device)
        optimization = Optimization(TrainingState(stage, training), device)
        return lambda: optimization.step(images)[1]

    def _speed(self) -> Speed:
        if self.name != "restore" or self.speed.channels_last is not None:
            return self.speed
        return self.speed.model_copy(update={"channels_last": FOR_RESTORING.channels_last})


def network_of(resolution: int, channels: int, multipliers: tuple[int, ...]) -> NetworkConfig:
    """Return a network with attention at the coarsest level. Raises `UserError` if the sizes are inconsistent."""
    coarsest = resolution // 2 ** (len(multipliers) - 1)
    try:
        sizes = AutoencoderConfig(
            resolution=resolution, channels=channels, multipliers=multipliers, attention_resolutions=(coarsest,)
        )
    except ValidationError as error:
        raise UserError("; ".join(problem["msg"] for problem in error.errors())) from None
    return NetworkConfig(autoencoder=sizes)


def training_settings(name: StageName, speed: Speed, folder: Path, steps: int = 1) -> TrainingConfig:
    """Return the settings of a training with discriminators from the first step, as in most of a training.

    The perceptual loss gets random weights, which are written into `folder` and do not change its cost.
    """
    if name == "restoration":
        return RestorationTraining(steps=steps, speed=speed)
    kind = AssociationTraining if name == "association" else AutoencoderTraining
    perceptual = PerceptualConfig(vgg16=_write_random_vgg16(folder / "vgg16.safetensors"))
    return kind(steps=steps, speed=speed, adversarial=AdversarialConfig(start_step=0), perceptual=perceptual)


def random_images(resolution: int, batch: int) -> Batch:
    """Return reproducible random `hq` and `lq`, (B, 3, R, R) in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    # smooth images, because a network's best output for white noise is a constant
    coarse = torch.rand((2, batch, 3, 8, 8), generator=generator) * 2 - 1
    fine = [torch.nn.functional.interpolate(each, size=resolution, mode="bicubic").clamp(-1, 1) for each in coarse]
    return dict(zip(("hq", "lq"), fine, strict=True))


def time_call(call: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds of a call, until the device has finished its work."""
    _synchronize(device)
    start = time.perf_counter()
    call()
    _synchronize(device)
    return time.perf_counter() - start


def count_operations(run: Run) -> int:
    """Return the FLOPs of convolutions and matrix products of one run, without compiled parts."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


class Cost(NamedTuple):
    """The cost of a run of a case: median seconds, and on a GPU the peak memory of tensors."""

    seconds: float
    samples_per_second: float
    operations_per_second: float
    peak_bytes: int | None


def measure_case(case: Case, repetitions: int) -> Cost:
    """Time a case after one warm-up run. Its operations are counted on one sample, without compilation."""
    operations = count_operations(uncompiled(case).prepare()) * case.batch
    device, run = torch.device(case.device), case.prepare()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    run()
    seconds = median(time_call(run, device) for _ in range(repetitions))
    peak = peak_bytes(device) if device.type == "cuda" else None
    return Cost(seconds, case.batch / seconds, operations / seconds, peak)


def uncompiled(case: Case) -> Case:
    """Return a case with one sample and without compilation, for counting its operations."""
    return replace(case, batch=1, speed=case.speed.model_copy(update={"compile": False}))


def matrix_rate(device: torch.device, dtype: torch.dtype, side: int | None = None) -> float:
    """Return the FLOP/s of a product of large square matrices, the best of several runs."""
    side = side or (8192 if device.type != "cpu" else 2048)
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    left @ right
    return max(2 * side**3 / time_call(lambda: left @ right, device) for _ in range(5))


def matrix_type(case: Case) -> torch.dtype:
    """Return the type of a case's matrix products."""
    chosen = case.speed.on(torch.device(case.device).type).autocast
    return torch.bfloat16 if chosen == "bfloat16" else torch.float32


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _restoration(stage: Stage, images: Batch, speed: Speed, device: torch.device) -> Run:
    assert isinstance(stage, RestorationStage)  # noqa: S101  # for the type checker
    model = stage.generator.eval()

    def restore() -> dict[str, Tensor]:
        with autocast(speed, device):
            return {"mean": model.restore(images["lq"]).image.mean()}

    return restore


def _write_random_vgg16(path: Path) -> Path:
    if not path.is_file():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            weights = PerceptualLoss().net.state_dict()
        renamed = {f"features.{name.partition('.')[2]}": weight for name, weight in weights.items()}
        safetensors.torch.save_file(renamed, path)
    return path
