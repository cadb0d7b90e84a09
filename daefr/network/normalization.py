"""Group normalization in float32, in either memory layout."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPSILON = 1e-6
IMAGE_DIMENSIONS = 4


class GroupNorm(nn.GroupNorm):
    """PyTorch's group normalization, always computed in the type of its weights.

    On CUDA, autocast does the same. Explicitly, it also applies to backward passes and to CPUs.
    """

    keep_channels_last = False
    """Whether to use `group_norm_channels_last`; see `daefr.settings.speed.Speed.group_norm`."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape, in the weights' type."""
        return normalize(x, self.weight, self.bias, self.settings)

    @property
    def settings(self) -> tuple[int, float, bool]:
        """The settings for `normalize`."""
        return self.num_groups, self.eps, self.keep_channels_last


def group_norm(groups: int, channels: int) -> GroupNorm:
    """Group normalization with VQGAN's epsilon, which is not PyTorch's default."""
    return GroupNorm(groups, channels, eps=NORM_EPSILON)


def normalize(x: Tensor, weight: Tensor, bias: Tensor, settings: tuple[int, float, bool]) -> Tensor:
    """Normalize groups of channels; `settings` are those of a `GroupNorm`."""
    groups, epsilon, keep_channels_last = settings
    x = x.to(weight.dtype)
    if keep_channels_last and x.dim() == IMAGE_DIMENSIONS:
        return group_norm_channels_last(x, groups, weight, bias, epsilon)
    return F.group_norm(x, groups, weight, bias, epsilon)


def group_norm_channels_last(x: Tensor, groups: int, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Group normalization of (B, C, H, W) that keeps the memory layout of `x`.

    PyTorch's CUDA kernel returns channels-first memory in some versions, which the next convolution must copy.
    """
    batch, channels = x.shape[:2]
    variance, mean = torch.var_mean(x.view(batch, groups, -1, *x.shape[2:]), dim=(2, 3, 4), correction=0)
    scale = (variance + epsilon).rsqrt()[:, :, None] * weight.view(groups, -1)
    shift = bias.view(groups, -1) - mean[:, :, None] * scale
    return torch.addcmul(shift.view(batch, channels, 1, 1), x, scale.view(batch, channels, 1, 1))
