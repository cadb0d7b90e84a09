"""The measures by name, and what each needs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from daefr.errors import UserError
from daefr.losses.identity import ARCFACE, load_arcface
from daefr.losses.perceptual import VGG16, PerceptualLoss
from daefr.metrics.fid import FFHQ_STATISTICS, INCEPTION, Inception, Statistics
from daefr.metrics.fidelity import WINDOW, psnr, ssim
from daefr.metrics.identity import IdentityAngle
from daefr.metrics.landmarks import AWING_FAN, LandmarkDistance
from daefr.metrics.lpips import Lpips
from daefr.metrics.niqe import BLOCK, LEAST_BLOCKS, NIQE_MODEL, Niqe
from daefr.published import Published
from daefr.settings.metrics import MetricName, Protocol

MetricFunctions = dict[str, Callable[..., Tensor]]


@dataclass(frozen=True)
class MetricSetup:
    """How measures are built.

    Args:
        protocol: `paper` or `standard`.
        device: where they are computed.
        weights: a folder with published files under their own names, looked into before the usual download.
        statistics: the statistics of real images for FID; without them, those of FFHQ.

    """

    protocol: Protocol
    device: torch.device
    weights: Path | None = None
    statistics: Path | None = None


@dataclass(frozen=True)
class MetricKind:
    """A measure that can be asked for.

    Args:
        build: returns its figures by name; raises `UserError` when a file that it needs is not to be had. A figure is
            called with restored images and, if `needs_target`, their ground truth, (B, 3, H, W) uint8 RGB on the
            device, and returns (B,), NaN where it is not defined.
        needs_target: whether there has to be ground truth.
        of_set: whether a figure returns features instead, (B, F), and only all images together have a value.
        least: the shortest side in pixels for which it is defined.
        needs: what else an image needs for it to be defined, in words.
        unit: of its figures.
        higher: whether higher is better.
        files: what it needs.

    """

    build: Callable[[MetricSetup], MetricFunctions]
    needs_target: bool
    of_set: bool = False
    least: int = 1
    needs: str = ""
    unit: str = ""
    higher: bool = False
    files: tuple[Published, ...] = ()


def real_statistics(setup: MetricSetup) -> Statistics:
    """Return the statistics of real images to which FID measures the distance; raises `UserError`."""
    return Statistics.read(setup.statistics or FFHQ_STATISTICS.find(setup.weights))


def find_files(name: MetricName, setup: MetricSetup) -> None:
    """Find, or download, the files of a measure; raises `UserError` when one cannot be had."""
    for file in METRIC_KINDS[name].files:
        if file is not FFHQ_STATISTICS or setup.statistics is None:
            file.find(setup.weights)
    if name == "fid" and setup.statistics is not None and not setup.statistics.is_file():
        raise UserError(f"there are no statistics of real images at {setup.statistics}")


def load_inception(weights: Path | None, device: torch.device) -> Inception:
    """Build the network of FID on a device, from its file in the folder `weights` or the usual download."""
    return Inception.load(INCEPTION.find(weights)).to(device)


def _lpips(setup: MetricSetup) -> MetricFunctions:
    network = PerceptualLoss.load(VGG16.find(setup.weights)).to(setup.device)
    figures: MetricFunctions = {"lpips": Lpips(network, setup.protocol)}
    if setup.protocol == "paper":
        figures["lpips_01"] = Lpips(network, setup.protocol, centered=False)
    return figures


def _fid(setup: MetricSetup) -> MetricFunctions:
    real_statistics(setup)
    return {"fid": load_inception(setup.weights, setup.device)}


def _niqe(setup: MetricSetup) -> MetricFunctions:
    return {"niqe": Niqe.load(NIQE_MODEL.find(setup.weights))}


def _ida(setup: MetricSetup) -> MetricFunctions:
    return {"ida": IdentityAngle(load_arcface(ARCFACE.find(setup.weights)).to(setup.device), setup.protocol)}


def _lmd(setup: MetricSetup) -> MetricFunctions:
    return {"lmd": LandmarkDistance.load(AWING_FAN.find(setup.weights), setup.device)}


NIQE_NEEDS = f"at least {LEAST_BLOCKS * BLOCK}x{BLOCK} pixels that are not all of one colour"

METRIC_KINDS: dict[MetricName, MetricKind] = {
    "psnr": MetricKind(lambda _: {"psnr": psnr}, needs_target=True, unit="dB", higher=True),
    "ssim": MetricKind(lambda _: {"ssim": ssim}, needs_target=True, least=WINDOW, higher=True),
    "lpips": MetricKind(_lpips, needs_target=True, least=16, files=(VGG16,)),
    "fid": MetricKind(_fid, needs_target=False, of_set=True, files=(INCEPTION, FFHQ_STATISTICS)),
    "niqe": MetricKind(_niqe, needs_target=False, least=BLOCK, needs=NIQE_NEEDS, files=(NIQE_MODEL,)),
    "ida": MetricKind(_ida, needs_target=True, unit="rad", files=(ARCFACE,)),
    "lmd": MetricKind(_lmd, needs_target=True, unit="px", files=(AWING_FAN,)),
}


def higher_is_better(figure: str) -> bool:
    """Tell whether a higher figure is the better one."""
    return any(figure == name and kind.higher for name, kind in METRIC_KINDS.items())


def requirement(figure: str) -> str:
    """Say what an image needs for a figure of it to be defined."""
    kind = next((kind for name, kind in METRIC_KINDS.items() if figure.removesuffix("_01") == name), None)
    if kind is None or kind.of_set:
        return "images"
    return kind.needs or f"at least {kind.least}x{kind.least} pixels"
