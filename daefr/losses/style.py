"""The style loss of the facial components (GFP-GAN section 3.4)."""

import torch
from torch import Tensor

FINE_WEIGHT = 0.5


def style_loss(generated: tuple[Tensor, Tensor], real: tuple[Tensor, Tensor]) -> Tensor:
    """L1 distance of the Gram matrices of two feature maps: 0.5 of the finer one's plus the coarser one's, a scalar.

    Args:
        generated: features (B, C, H, W) of generated crops, finer first; gradients flow to them.
        real: likewise of real crops, of the same shapes.

    """
    fine, coarse = ((gram(mine) - gram(theirs)).abs().mean() for mine, theirs in zip(generated, real, strict=True))
    return FINE_WEIGHT * fine + coarse


def gram(features: Tensor) -> Tensor:
    """Gram matrices of features: (B, C, H, W) -> (B, C, C) float32, divided by C H W."""
    # float32 even under autocast, because the loss has a weight in the thousands
    with torch.autocast(features.device.type, enabled=False):
        rows = features.float().flatten(2)
        return rows @ rows.transpose(1, 2) / (rows.shape[1] * rows.shape[2])
