"""What all checks share: the device, the sizes, and figures that one check measures and another reads."""

import dataclasses
import os
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from daefr.gpu_check.checks import Figures
from daefr.settings.base import StageName
from daefr.settings.network import AutoencoderConfig, DiscriminatorConfig, NetworkConfig, PredictorConfig

if TYPE_CHECKING:
    from daefr.gpu_check.workload import Workload

RELEASED = NetworkConfig()
# as deep as the released network, since depth is what compilation and layouts depend on
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
    """The sizes and the device of one run. Processes that a check starts receive a copy."""

    device: torch.device
    quick: bool
    folder: Path
    """For temporary files."""
    golden: Path | None = None
    """Folder of the golden figures, if given."""
    detector: Path | None = None
    """Weights of the face detector, if given."""
    losses: dict[tuple[StageName, str], list[float]] = field(default_factory=dict)
    """Loss of each of the first steps, by stage and mode."""
    step_figures: dict[tuple[StageName, str], Figures] = field(default_factory=dict)
    """What was measured of training steps, by stage and mode."""
    flops: dict[str, int] = field(default_factory=dict)
    """Operations per sample, by stage or `restore`."""
    bfloat16_rate: float | None = None
    """Measured FLOP/s of a large bfloat16 matrix product."""

    workloads: "dict[StageName, Workload]" = field(default_factory=dict)
    """Compiled stages that a later check needs again: compiling them takes longest of all."""
    processes: list[BaseProcess] = field(default_factory=list)
    """What compiles ahead, see `daefr.gpu_check.compile_ahead`."""

    def for_process(self) -> "Context":
        """Return what another process needs to know of it."""
        return dataclasses.replace(self, losses={}, step_figures={}, workloads={}, processes=[])

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
        """Side of the square matrices whose product gives the device's rate."""
        return 8192 if self.on_gpu else 512

    @property
    def batch(self) -> int:
        """Samples per training step: a GPU's share of the released recipe's 32 on eight GPUs."""
        return 2 if self.quick else 4

    @property
    def dataloader_workers(self) -> int:
        """Processes that decode images: as many as there are cores for, but no more than a loader can use."""
        return 1 if self.quick else max(1, min(8, len(os.sched_getaffinity(0)) - 2))

    def synchronize(self) -> None:
        """Wait until the device has finished its work."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)
