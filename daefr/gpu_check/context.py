"""The device, the sizes and the results that the checks share."""

import dataclasses
import os
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from daefr.gpu_check.checks import Metrics
from daefr.settings.base import StageName
from daefr.settings.network import AutoencoderConfig, DiscriminatorConfig, NetworkConfig, PredictorConfig

if TYPE_CHECKING:
    from daefr.gpu_check.workload import Workload

RELEASED = NetworkConfig()
# as deep as the released network, since compilation and layouts depend on the depth
NARROW = NetworkConfig(
    autoencoder=AutoencoderConfig(
        resolution=32,
        channels=8,
        blocks=1,
        attention_resolutions=(1,),
        groups=4,
        latent_channels=16,
        codes=64,
        code_channels=16,
    ),
    predictor=PredictorConfig(width=16, layers=2, heads=2, mlp=24, fusion_heads=2),
    discriminator=DiscriminatorConfig(channels=8, layers=2),
)


@dataclass
class Context:
    """The device and the sizes of one run. Processes that a check starts receive a copy."""

    device: torch.device
    quick: bool
    folder: Path
    """For temporary files."""
    golden: Path | None = None
    """Folder of the reference's golden outputs, if given."""
    detector: Path | None = None
    """Weights of the face detector, if given."""
    losses: dict[tuple[StageName, str], list[float]] = field(default_factory=dict)
    """Loss of each of the first steps, by stage and mode."""
    step_metrics: dict[tuple[StageName, str], Metrics] = field(default_factory=dict)
    """Metrics of training steps, by stage and mode."""
    flops: dict[str, int] = field(default_factory=dict)
    """FLOPs per sample, by stage or `restore`."""
    bfloat16_rate: float | None = None
    """Measured FLOP/s of a large bfloat16 matrix product."""

    workloads: "dict[StageName, Workload]" = field(default_factory=dict)
    """Compiled stages that a later check reuses, because compiling is slow."""
    processes: list[BaseProcess] = field(default_factory=list)
    """The processes of `daefr.gpu_check.compile_ahead`."""

    def for_process(self) -> "Context":
        """Return a copy for another process."""
        return dataclasses.replace(self, losses={}, step_metrics={}, workloads={}, processes=[])

    @property
    def network(self) -> NetworkConfig:
        """The released network, or a narrow one of the same depth."""
        return NARROW if self.quick else RELEASED

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    @property
    def matrix_side(self) -> int:
        """Side of the square matrices for measuring the device's rate."""
        return 8192 if self.on_gpu else 512

    @property
    def batch(self) -> int:
        """Samples per training step: those of one GPU in the released recipe, 32 on eight GPUs."""
        return 2 if self.quick else 4

    @property
    def dataloader_workers(self) -> int:
        """Processes that decode images, up to 8, leaving two cores free."""
        return 1 if self.quick else max(1, min(8, len(os.sched_getaffinity(0)) - 2))

    def synchronize(self) -> None:
        """Wait until the device has finished its work."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)
