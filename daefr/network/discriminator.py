"""The patch discriminator of the codebook and association stages."""

from itertools import pairwise

from torch import Tensor, nn

from daefr.network.autoencoder import IMAGE_CHANNELS
from daefr.settings.network import DiscriminatorConfig

WIDEST = 8
SLOPE = 0.2
DEVIATION = 0.02


class Discriminator(nn.Module):
    """PatchGAN: one score for each of many overlapping patches.

    Keys and initialization as in the reference's ``NLayerDiscriminator`` with ``weights_init``: filters N(0, 0.02),
    batch-norm weights N(1, 0.02).
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        widths = [config.channels * min(2**index, WIDEST) for index in range(config.layers + 1)]
        layers: list[nn.Module] = [_conv(IMAGE_CHANNELS, widths[0], stride=2), nn.LeakyReLU(SLOPE, inplace=True)]
        for index, (before, width) in enumerate(pairwise(widths), start=1):
            stride = 2 if index < config.layers else 1
            # a bias would have no effect before the batch norm
            layers += [
                _conv(before, width, stride, bias=False),
                nn.BatchNorm2d(width),
                nn.LeakyReLU(SLOPE, inplace=True),
            ]
        layers.append(_conv(widths[-1], 1, stride=1))
        self.main = nn.Sequential(*layers)
        self.apply(_init_weights)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, 1, h, w) float32 scores, unbounded, higher for real."""
        return self.main(image).float()  # type: ignore[no-any-return]


def _conv(before: int, after: int, stride: int, *, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel_size=4, stride=stride, padding=1, bias=bias)


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, DEVIATION)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, DEVIATION)
