"""Stages with random weights and images, in several compute modes."""

import copy
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from daefr import compilation
from daefr.data.dataset import Batch
from daefr.gpu_check.context import Context
from daefr.profiling import count_operations, matrix_rate, random_images, training_settings
from daefr.settings.base import StageName
from daefr.settings.network import NetworkConfig
from daefr.settings.speed import Speed
from daefr.settings.training import TrainingConfig
from daefr.speed import arrange_batch, autocast, prepare_network
from daefr.stages import RestorationStage, Stage, build_stage
from daefr.training.optimization import Optimization
from daefr.training.state import TrainingState

STEPS = 1000
"""Configured length of the trainings, of which only a few steps are run."""


@dataclass(frozen=True)
class Mode:
    """A compute mode."""

    bfloat16: bool
    compiled: bool

    def __str__(self) -> str:
        return f"{'bfloat16' if self.bfloat16 else 'float32'} {'compiled' if self.compiled else 'eager'}"

    @property
    def speed(self) -> Speed:
        """The options of this mode; float32 is computed without TF32."""
        return Speed(
            autocast="bfloat16" if self.bfloat16 else "off",
            compile=self.compiled,
            # in every mode, because it is part of the key of the compiler's cache
            allow_tf32=False,
        )


class Workload:
    """The training of a stage, including discriminators, on one batch of random images."""

    def __init__(
        self, context: Context, name: StageName, mode: Mode, batch: int | None = None, speed: Speed | None = None
    ) -> None:
        """Build the stage on the device. The same arguments give the same weights and images."""
        self.context, self.batch_size = context, batch or context.batch
        self.speed = speed or mode.speed
        master, training = _build(context, name)
        self.training = training.model_copy(update={"speed": self.speed})
        if not context.on_gpu:
            # compiling for a CPU takes minutes, so graphs are only traced
            compilation.BACKEND = "eager"
        self.stage = prepare_network(copy.deepcopy(master), self.speed, context.device).train()
        self.state = TrainingState(self.stage, self.training)
        self.optimization = Optimization(self.state, context.device)
        self.images = self.arrange(random_images(context.network.autoencoder.resolution, self.batch_size))

    def arrange(self, images: Batch) -> Batch:
        """Move a batch to the device, in the layout of the mode."""
        return arrange_batch(images, self.speed, self.context.device)

    def step(self, images: Batch | None = None) -> dict[str, Tensor]:
        """Run one training step; return its scalars, on the device."""
        return self.optimization.step(self.images if images is None else images)[1]

    def parameters(self) -> dict[str, Tensor]:
        """Return copies of all parameters, on the CPU."""
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in self.stage.named_parameters()}


def seconds_per_call(context: Context, call: Callable[[], Any], repetitions: int, warmup: int = 2) -> float:
    """Return the mean seconds of a call on the device."""
    for _ in range(warmup):
        call()
    context.synchronize()
    start = time.perf_counter()
    for _ in range(repetitions):
        call()
    context.synchronize()
    return (time.perf_counter() - start) / repetitions


def flops_per_sample(context: Context, name: StageName | str) -> int:
    """Return the FLOPs of convolutions and matrix products, of a training step of the stage `name` or of `restore`."""
    if name not in context.flops:
        if name == "restore":
            run: Callable[[], Any] = restore(context, Speed(compile=False), 1)
        else:
            run = Workload(context, name, Mode(bfloat16=True, compiled=False), batch=1).step  # type: ignore[arg-type]
        context.flops[name] = count_operations(run)
    return context.flops[name]


def bfloat16_rate(context: Context) -> float:
    """Return the FLOP/s of a product of large bfloat16 matrices, measured once per run."""
    if context.bfloat16_rate is None:
        context.bfloat16_rate = matrix_rate(context.device, torch.bfloat16, context.matrix_side)
    return context.bfloat16_rate


def restore(context: Context, speed: Speed, batch: int) -> Callable[[], Tensor]:
    """Return a function that restores a batch of random images."""
    stage = restoration_stage(context)
    model = prepare_network(stage.generator, speed, context.device).eval()
    images = arrange_batch(random_images(context.network.autoencoder.resolution, batch), speed, context.device)["lq"]

    def call() -> Tensor:
        with autocast(speed, context.device):
            return model.restore(images).image

    return call


def restoration_stage(context: Context) -> RestorationStage:
    """Return a restoration stage with random weights, on the CPU."""
    stage = copy.deepcopy(_build(context, "restoration")[0])
    assert isinstance(stage, RestorationStage)  # noqa: S101  # for the type checker
    return stage


def _build(context: Context, name: StageName) -> tuple[Stage, TrainingConfig]:
    return _build_once(name, context.network, context.folder)


@functools.cache
def _build_once(name: StageName, network: NetworkConfig, folder: Path) -> tuple[Stage, TrainingConfig]:
    training = training_settings(name, Speed(), folder, steps=STEPS)
    return build_stage(name, network, training), training
