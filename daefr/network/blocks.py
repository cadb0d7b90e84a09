"""The building blocks of encoder and decoder (the reference's ``vqvae_arch.py``, from VQGAN)."""

import torch.nn.functional as F
from torch import Tensor, nn

from daefr.network.convolution import convolve_normed
from daefr.network.normalization import group_norm


class ResidualBlock(nn.Module):
    """Twice (group norm, swish, 3x3 convolution), added to the input: (B, C_in, H, W) -> (B, C_out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = group_norm(groups, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(groups, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.nin_shortcut = (
            nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, kernel_size=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, of the same H and W."""
        residual = convolve_normed(self.conv2, self.norm2, convolve_normed(self.conv1, self.norm1, x))
        # in place, since these tensors are the largest and no gradient needs the convolution's output
        return residual.add_(self.nin_shortcut(x))


class AttentionBlock(nn.Module):
    """Attention over all positions, added to the input: self-attention, or cross-attention to a second input.

    In cross-attention, the queries come from the second input, and keys, values and the residual from the first
    (paper section 3.3; the reference's ``MultiHeadAttnBlock``).

    The released checkpoints have `norm2` in every block. Self-attention does not use it, so it is frozen there:
    distributed training would wait for the gradient of a trainable parameter.

    Args:
        channels: C of both inputs; `groups` and `heads` must divide it.
        groups: groups of the normalizations.
        heads: attention heads; head i has the i-th run of C / heads channels.
        cross: whether there is a second input.

    """

    def __init__(self, channels: int, groups: int, heads: int = 1, *, cross: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = group_norm(groups, channels)
        self.norm2 = group_norm(groups, channels).requires_grad_(cross)
        self.q = nn.Conv2d(channels, channels, kernel_size=1)
        self.k = nn.Conv2d(channels, channels, kernel_size=1)
        self.v = nn.Conv2d(channels, channels, kernel_size=1)
        self.proj_out = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return `x` plus what it attends to; `x`, `y` and the result are (B, C, H, W)."""
        normed = self.norm1(x)
        query = self.q(normed if y is None else self.norm2(y))
        attended = F.scaled_dot_product_attention(
            self._split(query), self._split(self.k(normed)), self._split(self.v(normed))
        )
        # (B, heads, N, C / heads) -> (B, heads, C / heads, N) -> (B, C, H, W)
        return x + self.proj_out(attended.transpose(2, 3).reshape(x.shape))  # type: ignore[no-any-return]

    def _split(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, heads, N, C / heads)."""
        batch, channels, height, width = x.shape
        return x.reshape(batch, self.heads, channels // self.heads, height * width).transpose(2, 3)


class Downsample(nn.Module):
    """Downsample by 2: zero padding on the right and at the bottom, then a 3x3 convolution with stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H / 2, W / 2); H and W are even."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Upsample by 2: nearest neighbor, then a 3x3 convolution.

    There are two implementations with the same result; which one is faster depends on the device. The transposed
    convolution with stride 2 sums the weights for the same repeated position, which reduces the products per pixel
    from nine to four.
    """

    transposed = True
    """Whether to use one transposed convolution; see `daefr.settings.speed.Speed.upsample`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2 H, 2 W)."""
        if not self.transposed:
            return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # type: ignore[no-any-return]
        # (C_out, C_in, 3, 3) -> (C_in, C_out, 4, 4): the flipped weight, convolved with a 2x2 box
        weight = F.pad(self.conv.weight.flip(2, 3), (1, 1, 1, 1))
        weight = weight[:, :, 1:, 1:] + weight[:, :, :-1, 1:] + weight[:, :, 1:, :-1] + weight[:, :, :-1, :-1]
        return F.conv_transpose2d(x, weight.transpose(0, 1), self.conv.bias, stride=2, padding=1)
