"""ArcFace's face recognition network (Deng et al. 2019), in the small variant that GFP-GAN uses."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

RELEASED_CHANNELS = 64
IMAGE_SIDE = 128
EMBEDDING = 512
BLOCKS = 2
SHRINK = 16


class ArcFace(nn.Module):
    """ResNet18 on gray faces of 128x128 pixels, without dropout; keys as in GFP-GAN's ``arcface_resnet18.pth``.

    Args:
        channels: width of the finest level; 64 in the released weights.

    """

    def __init__(self, channels: int = RELEASED_CHANNELS) -> None:
        super().__init__()
        widths = [channels, *(channels * factor for factor in (1, 2, 4, 8))]
        self.conv1 = _conv(1, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.prelu = nn.PReLU()
        for number, (before, after) in enumerate(pairwise(widths), start=1):
            blocks = [_Block(before, after, 1 if number == 1 else 2)]
            blocks += [_Block(after, after, 1) for _ in range(BLOCKS - 1)]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
        self.bn4 = nn.BatchNorm2d(widths[-1])
        self.fc5 = nn.Linear(widths[-1] * (IMAGE_SIDE // SHRINK) ** 2, EMBEDDING)
        self.bn5 = nn.BatchNorm1d(EMBEDDING)

    def forward(self, gray: Tensor) -> Tensor:
        """Return the embeddings of faces: (B, 1, 128, 128) in [-1, 1] -> (B, 512), not normalized."""
        x = F.max_pool2d(self.prelu(self.bn1(self.conv1(gray))), kernel_size=2)
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        return self.bn5(self.fc5(self.bn4(x).flatten(1)))  # type: ignore[no-any-return]


class _Block(nn.Module):
    """ArcFace's residual block, which begins with a normalization and shares its PReLU."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(before)
        self.conv1 = _conv(before, before)
        self.bn1 = nn.BatchNorm2d(before)
        self.prelu = nn.PReLU()
        self.conv2 = _conv(before, after, stride)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample = nn.Sequential()
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, after, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""
        residual = self.prelu(self.bn1(self.conv1(self.bn0(x))))
        return self.prelu(self.bn2(self.conv2(residual)) + self.downsample(x))  # type: ignore[no-any-return]


def _conv(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1, bias=False)
