"""Encoder and decoder (paper section 3.1), with the state-dict keys of the released checkpoints."""

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn

from daefr.network.blocks import AttentionBlock, Downsample, ResidualBlock, Upsample
from daefr.network.normalization import group_norm
from daefr.settings.network import AutoencoderConfig

IMAGE_CHANNELS = 3


class Level(nn.Module):
    """The blocks of one resolution: residual blocks, each followed by attention if the level has it."""

    def __init__(self, in_channels: int, channels: int, blocks: int, groups: int, *, attention: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResidualBlock(channels if index else in_channels, channels, groups) for index in range(blocks)
        )
        self.attn = nn.ModuleList(AttentionBlock(channels, groups) for _ in range(blocks if attention else 0))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C, H, W)."""
        for index, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[index](x)
        return x


class DownLevel(Level):
    """A level of the encoder; every level except the coarsest ends with downsampling."""

    def __init__(
        self, in_channels: int, channels: int, blocks: int, groups: int, *, attention: bool, resample: bool
    ) -> None:
        super().__init__(in_channels, channels, blocks, groups, attention=attention)
        self.downsample = Downsample(channels) if resample else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C, H / 2, W / 2), or the same H and W in the coarsest level."""
        return self.downsample(super().forward(x))  # type: ignore[no-any-return]


class UpLevel(Level):
    """A level of the decoder; every level except the finest ends with upsampling."""

    def __init__(
        self, in_channels: int, channels: int, blocks: int, groups: int, *, attention: bool, resample: bool
    ) -> None:
        super().__init__(in_channels, channels, blocks, groups, attention=attention)
        self.upsample = Upsample(channels) if resample else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C, 2 H, 2 W), or the same H and W in the finest level."""
        return self.upsample(super().forward(x))  # type: ignore[no-any-return]


class Middle(nn.Module):
    """Residual block, attention, residual block, at the coarsest resolution."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, groups)
        self.attn_1 = AttentionBlock(channels, groups)
        self.block_2 = ResidualBlock(channels, channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.block_2(self.attn_1(self.block_1(x)))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Image to latent: (B, 3, R, R) in [-1, 1] -> (B, latent_channels, S, S), S = `config.latent_side`."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, coarsest = config.widths, len(config.widths) - 1
        self.conv_in = nn.Conv2d(IMAGE_CHANNELS, config.channels, 3, padding=1)
        self.down = nn.ModuleList(
            DownLevel(
                widths[level - 1] if level else config.channels,
                widths[level],
                config.blocks,
                config.groups,
                attention=config.level_resolutions[level] in config.attention_resolutions,
                resample=level != coarsest,
            )
            for level in range(len(widths))
        )
        self.mid = Middle(widths[-1], config.groups)
        self.norm_out = group_norm(config.groups, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.latent_channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Return the latent, before `quant_conv`."""
        x = _through(self.down, self.conv_in(image))
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Latent to image: (B, latent_channels, S, S) -> (B, 3, R, R), about [-1, 1] but not clipped."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, coarsest = config.widths, len(config.widths) - 1
        self.conv_in = nn.Conv2d(config.latent_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], config.groups)
        # as in the released checkpoints, up.0 is the finest level, which runs last
        self.up = nn.ModuleList(
            UpLevel(
                widths[min(level + 1, coarsest)],
                widths[level],
                config.blocks + 1,
                config.groups,
                attention=config.level_resolutions[level] in config.attention_resolutions,
                resample=level != 0,
            )
            for level in range(len(widths))
        )
        self.norm_out = group_norm(config.groups, widths[0])
        self.conv_out = nn.Conv2d(widths[0], IMAGE_CHANNELS, 3, padding=1)

    @property
    def last_layer(self) -> Tensor:
        """Weight of the last convolution, whose gradients determine the adaptive weight."""
        return self.conv_out.weight

    def forward(self, latent: Tensor) -> Tensor:
        """Decode `latent`, the output of `post_quant_conv`."""
        x = _through(reversed(self.up), self.mid(self.conv_in(latent)))
        return self.conv_out(F.silu(self.norm_out(x)))  # type: ignore[no-any-return]


def _through(levels: Iterable[nn.Module], x: Tensor) -> Tensor:
    for level in levels:
        x = level(x)
    return x
