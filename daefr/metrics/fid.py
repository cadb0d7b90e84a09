"""FID, the distance of a set of images from a set of real ones (Heusel et al. 2017)."""

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pytorch_fid.inception import FIDInceptionA, FIDInceptionC, FIDInceptionE_1, FIDInceptionE_2
from torch import Tensor, nn
from torchvision.models import inception_v3

from daefr.errors import UserError, one_line
from daefr.metrics.base import as_fed
from daefr.published import Published
from daefr.tensors import to_float64

INCEPTION = Published(
    name="pt_inception-2015-12-05-6726825d.pth",
    url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    sha256="6726825d",
)
# of the 512x512 FFHQ; DAEFR's authors publish it beside their checkpoints
FFHQ_STATISTICS = Published(
    name="inception_FFHQ_512-f7b384ab.pth",
    url="https://huggingface.co/LIAGM/DAEFR_pretrain_model/resolve/main/pretrained_models/inception_FFHQ_512-f7b384ab.pth",
    sha256="f7b384ab",
)
FEATURES = 2048
INPUT_SIDE = 299
CLASSES = 1008
LEAST_IMAGES = 2
# what a pickle of NumPy arrays names, as NumPy 1 and 2 write it
_ARRAYS: list[Any] = [
    np.ndarray,
    np.dtype,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
    *(
        (np._core.multiarray._reconstruct, f"numpy.{core}.multiarray._reconstruct")  # type: ignore[attr-defined]
        for core in ("core", "_core")
    ),
]


class Inception(nn.Module):
    """The Inception-v3 of FID, up to its pooled features: torchvision's with the blocks that differ in TensorFlow's."""

    def __init__(self) -> None:
        super().__init__()
        network = inception_v3(weights=None, num_classes=CLASSES, aux_logits=False, init_weights=False)
        network.Mixed_5b = FIDInceptionA(192, pool_features=32)
        network.Mixed_5c = FIDInceptionA(256, pool_features=64)
        network.Mixed_5d = FIDInceptionA(288, pool_features=64)
        network.Mixed_6b = FIDInceptionC(768, channels_7x7=128)
        network.Mixed_6c = FIDInceptionC(768, channels_7x7=160)
        network.Mixed_6d = FIDInceptionC(768, channels_7x7=160)
        network.Mixed_6e = FIDInceptionC(768, channels_7x7=192)
        network.Mixed_7b = FIDInceptionE_1(1280)
        network.Mixed_7c = FIDInceptionE_2(2048)
        self.network = network.eval()

    @classmethod
    def load(cls, path: Path) -> "Inception":
        """Read the weights that pytorch-fid publishes. Raises `UserError` when the file does not hold them."""
        features = cls()
        INCEPTION.fill(features.network, INCEPTION.tensors(path), path)
        # the features are what the classifier would get
        features.network.fc = nn.Identity()
        return features

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB -> (B, 2048); resized to 299x299 bilinearly, as the published figures are."""
        # the scripts of the paper read RGB here
        centered = as_fed(images, "standard", centered=True)
        small = F.interpolate(centered, (INPUT_SIDE, INPUT_SIDE), mode="bilinear", align_corners=False)
        features: Tensor = self.network(small)
        return features


@dataclass(frozen=True)
class Statistics:
    """Mean (F,) and covariance (F, F), float64, of the features of a set of images."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def read(cls, path: Path) -> "Statistics":
        """Read what `write` or BasicSR wrote (.npz, .pth with `mean` and `cov`); raises `UserError` for others."""
        try:
            stored = _read_arrays(path)
            mean, covariance = (torch.as_tensor(stored[name]).double() for name in ("mean", "cov"))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
            raise UserError(f"{path} holds no statistics of features (mean, cov): {one_line(error)}") from None
        if mean.shape != (FEATURES,) or covariance.shape != (FEATURES, FEATURES):
            shapes = f"{tuple(mean.shape)} and {tuple(covariance.shape)}"
            raise UserError(f"{path} holds no statistics of {FEATURES} features: mean and cov have the shapes {shapes}")
        return cls(mean, covariance)

    def write(self, path: Path) -> None:
        """Write an .npz file with `mean` and `cov`."""
        with path.open("wb") as file:
            np.savez(file, mean=self.mean.numpy(), cov=self.covariance.numpy())


class Accumulator:
    """Statistics of a stream of features, in constant memory."""

    def __init__(self) -> None:
        """Begin with none."""
        self.count = 0
        self._sum = torch.zeros(())
        self._products = torch.zeros(())

    def update(self, features: Tensor) -> None:
        """Add the features (B, F) of images, as `Inception` gives them."""
        features = to_float64(features.detach())
        self.count += len(features)
        self._sum = self._sum + features.sum(0)
        self._products = self._products + features.T @ features

    def statistics(self) -> Statistics:
        """Return the statistics of all images so far; raises `UserError` when they are fewer than two."""
        if self.count < LEAST_IMAGES:
            raise UserError(f"FID compares sets of images; {self.count} is too few")
        mean = self._sum / self.count
        covariance = (self._products - self.count * mean.outer(mean)) / (self.count - 1)
        return Statistics(mean.cpu(), covariance.cpu())


def frechet_distance(first: Statistics, second: Statistics) -> float:
    """Return the squared Fréchet distance of two Gaussians: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).

    The trace of the root is the sum of the roots of the eigenvalues of R' C2 R, where C1 = R R'. R has as many columns
    as C1 has rank, which few images make low: the roots of what rounding leaves beyond would add up.
    """
    values, vectors = torch.linalg.eigh(first.covariance)
    kept = values > values.max() * len(values) * torch.finfo(values.dtype).eps
    root = vectors[:, kept] * values[kept].sqrt()
    product = torch.linalg.eigvalsh(root.T @ second.covariance @ root)
    trace = first.covariance.trace() + second.covariance.trace() - 2 * product.clamp(min=0).sqrt().sum()
    return float((first.mean - second.mean).square().sum() + trace)


def _read_arrays(path: Path) -> Mapping[str, Tensor | NDArray[np.float64]]:
    if zipfile.is_zipfile(path) and path.suffix == ".npz":
        with np.load(path) as arrays:
            return dict(arrays)
    with torch.serialization.safe_globals(_ARRAYS):
        stored: Mapping[str, Tensor | NDArray[np.float64]] = torch.load(path, map_location="cpu", weights_only=True)
    return stored
