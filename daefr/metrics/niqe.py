"""NIQE, the natural image quality evaluator (Mittal, Soundararajan and Bovik 2013), which needs no ground truth."""

import zipfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from daefr.errors import UserError
from daefr.published import Published
from daefr.tensors import where_float64_is

NIQE_MODEL = Published(
    name="niqe_pris_params.npz",
    url="https://raw.githubusercontent.com/XPixelGroup/BasicSR/master/basicsr/metrics/niqe_pris_params.npz",
    sha256="2a7c182a68c9e7f1b2e2e5ec723279d6f65d912b6fcaf37eb2bf03d7367c4296",
)
# BT.601: red, green and blue in [0, 1] to luma in [16, 235]
LUMA, LUMA_OFFSET = (65.481, 128.553, 24.966), 16.0
BLOCK = 96
HALVING_TAPS = 8
# a covariance needs more than one
LEAST_BLOCKS = 2
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
SHAPES = torch.arange(0.2, 10.001, 0.001, dtype=torch.float64)


class Niqe:
    """How far the statistics of an image are from those of pristine ones: 0 for the same, larger the less natural.

    As published for face restoration: of the luma (BT.601 Y, rounded), in blocks of 96x96 pixels at two scales, without
    a border crop, with the pristine model of BasicSR. Not defined (NaN) for an image that holds fewer than two blocks
    or is all flat.
    """

    def __init__(self, mean: Tensor, covariance: Tensor, window: Tensor) -> None:
        """Take the pristine model: mean (36,) and covariance (36, 36) of the features, local window (7,), float64."""
        self._mean, self._covariance, self._window = mean, covariance, window

    @classmethod
    def load(cls, path: Path) -> "Niqe":
        """Read the pristine model. Raises `UserError` when the file does not hold it."""
        try:
            with np.load(path) as arrays:
                mean, covariance, window = (
                    torch.from_numpy(np.asarray(arrays[name], np.float64))
                    for name in ("mu_pris_param", "cov_pris_param", "gaussian_window")
                )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is not {NIQE_MODEL.name}: {error}") from None
        # the stored window is the outer product of this one with itself
        return cls(mean.flatten(), covariance, window.sum(0))

    def __call__(self, images: Tensor) -> Tensor:
        """Measure (B, 3, H, W) uint8 RGB, at least 96 pixels a side: (B,) float64 on the CPU."""
        features = self._features(_luma(where_float64_is(images))).cpu()
        return torch.stack([self._distance(each) for each in features])

    def _features(self, luma: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, blocks, 36): 18 statistics of each block at either scale."""
        height, width = (side - side % BLOCK for side in luma.shape[-2:])
        luma = luma[..., :height, :width]
        coarse = _halve(luma)
        scales = [
            _statistics(_blocks(self._normalize(image), side)) for image, side in ((luma, BLOCK), (coarse, BLOCK // 2))
        ]
        return torch.cat(scales, dim=-1)

    def _normalize(self, image: Tensor) -> Tensor:
        """Subtract the local mean and divide by the local deviation (plus one)."""
        mean = self._smooth(image)
        deviation = (self._smooth(image.square()) - mean.square()).abs().sqrt()
        return (image - mean) / (deviation + 1)

    def _smooth(self, image: Tensor) -> Tensor:
        window = self._window.to(image.device)
        margin = len(window) // 2
        padded = F.pad(image, [margin] * 4, mode="replicate")
        return F.conv2d(F.conv2d(padded.double(), window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1)).float()

    def _distance(self, features: Tensor) -> Tensor:
        """(blocks, 36) -> scalar: the Mahalanobis-like distance of two Gaussians, of the image and pristine."""
        whole = features[~features.isnan().any(1)]
        if len(whole) < LEAST_BLOCKS:
            return torch.tensor(torch.nan, dtype=torch.float64)
        difference = self._mean - features.nanmean(0)
        inverse = torch.linalg.pinv((self._covariance + whole.T.cov()) / 2, rtol=1e-15)
        distance: Tensor = (difference @ inverse @ difference).sqrt()
        return distance


def _luma(images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 RGB -> (B, 1, H, W) float32, whole numbers, rounded where the reference rounds."""
    weights = torch.tensor(LUMA, dtype=torch.float64, device=images.device).view(1, 3, 1, 1)
    luma = ((images.float() / 255).double() * weights).sum(1, keepdim=True) + LUMA_OFFSET
    return ((luma / 255).float() * 255).round()


def _halve(image: Tensor) -> Tensor:
    """Halve both sides, which are even, as MATLAB's `imresize` does: bicubic, widened against aliasing, mirrored.

    Where an image is flat, the last bit decides: the products are taken in the reference's order and layout.
    """
    distance = (torch.arange(HALVING_TAPS) - (HALVING_TAPS - 1) / 2).abs() / 2
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    # they sum to 1
    weights = torch.where(distance <= 1, near, far).to(image.device) / 2
    low = _mirror(image / 255).unfold(2, HALVING_TAPS, 2) @ weights
    wide = _mirror(low.mT).mT.contiguous()
    columns = [wide[..., left : left + HALVING_TAPS] @ weights for left in range(0, low.shape[3], 2)]
    return torch.stack(columns, dim=3) * 255


def _mirror(image: Tensor) -> Tensor:
    """Add rows, (..., H, W) -> (..., H + 6, W): what halving sees beyond the edge."""
    margin = HALVING_TAPS // 2 - 1
    return torch.cat([image[..., :margin, :].flip(-2), image, image[..., -margin:, :].flip(-2)], dim=-2)


def _blocks(image: Tensor, side: int) -> Tensor:
    """(B, 1, H, W) -> (B, blocks, side, side)."""
    return image.double().squeeze(1).unfold(1, side, side).unfold(2, side, side).flatten(1, 2)


def _statistics(blocks: Tensor) -> Tensor:
    """(B, blocks, S, S) -> (B, blocks, 18): what the values, and the products of neighbours, are like."""
    shape, left, right = _fit(blocks)
    features = [shape, (left + right) / 2]
    for shift in NEIGHBOURS:
        shape, left, right = _fit(blocks * blocks.roll(shift, dims=(-2, -1)))
        mean = (right - left) * (torch.lgamma(2 / shape) - torch.lgamma(1 / shape)).exp()
        features += [shape, mean, left, right]
    return torch.stack(features, dim=-1)


def _fit(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fit an asymmetric generalized Gaussian to each block, by moments: its shape, left and right scale (B, blocks)."""
    values = values.flatten(2)
    negative, positive = values.clamp(max=0), values.clamp(min=0)
    left = (negative.square().sum(2) / (values < 0).sum(2)).sqrt()
    right = (positive.square().sum(2) / (values > 0).sum(2)).sqrt()
    skew = left / right
    ratio = values.abs().mean(2).square() / values.square().mean(2)
    ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1).square()
    shape = _shape(ratio)
    scale = ((torch.lgamma(1 / shape) - torch.lgamma(3 / shape)) / 2).exp()
    return shape, left * scale, right * scale


def _shape(ratio: Tensor) -> Tensor:
    """The shape, to 0.001, whose moments have this ratio; NaN where the ratio is."""
    shapes = SHAPES.to(ratio.device)
    ratios = (2 * torch.lgamma(2 / shapes) - torch.lgamma(1 / shapes) - torch.lgamma(3 / shapes)).exp()
    above = torch.searchsorted(ratios, ratio).clamp(1, len(ratios) - 1)
    nearer = above - (ratio - ratios[above - 1] < ratios[above] - ratio).long()
    return torch.where(ratio.isnan(), ratio, shapes[nearer])
