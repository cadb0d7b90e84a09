"""The discriminator of one facial component (GFP-GAN section 3.4)."""

from typing import NamedTuple

from torch import Tensor, nn

from daefr.network.autoencoder import IMAGE_CHANNELS
from daefr.settings.network import DiscriminatorConfig

SLOPE = 0.2


class DiscriminatorOutput(NamedTuple):
    """The output of a component discriminator for crops of S x S pixels; S / 2 and S / 4 are rounded up."""

    scores: Tensor
    """(B, 1, S / 4, S / 4) float32, unbounded, higher for real."""
    features: tuple[Tensor, Tensor]
    """(B, 2 C, S / 2, S / 2) and (B, 4 C, S / 4, S / 4), for the style loss."""


class ComponentDiscriminator(nn.Module):
    """Six 3x3 convolutions, the second and the fourth with stride 2, for crops of any size.

    The widths are those of GFP-GAN's ``FacialComponentDiscriminator``: with C = 64, up to 256. Instead of its equalized
    learning rate and blur, there is Kaiming initialization, which also preserves the variance.
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        first, second, third = (config.channels * factor for factor in (1, 2, 4))
        self.fine = nn.Sequential(
            *_layer(IMAGE_CHANNELS, first), *_layer(first, second, stride=2), *_layer(second, second)
        )
        self.coarse = nn.Sequential(*_layer(second, third, stride=2), *_layer(third, third))
        self.score = nn.Conv2d(third, 1, kernel_size=3, padding=1)
        self.apply(_init_weights)

    def forward(self, crop: Tensor) -> DiscriminatorOutput:
        """Score crops (B, 3, S, S) in [-1, 1]."""
        fine = self.fine(crop)
        coarse = self.coarse(fine)
        return DiscriminatorOutput(self.score(coarse).float(), (fine, coarse))


def _layer(before: int, after: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1), nn.LeakyReLU(SLOPE)


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # all of them have one
