"""The association of HQ and LQ features (paper section 3.2)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.07


class Contrast(NamedTuple):
    """How well the two sides recognize each other; both are scalars."""

    loss: Tensor
    accuracy: Tensor
    """Share of the positions, HQ and LQ alike, whose closest partner is the right one: in [0, 1], detached."""


def contrast(hq: Tensor, lq: Tensor) -> Contrast:
    """Symmetric cross-entropy that makes each HQ position recognize the LQ position of the same place and face.

    The temperature is constant, as it is in the reference, where no optimizer holds it.

    Args:
        hq: (B, C, H, W), the HQ latent before quantization.
        lq: (B, C, H, W), the LQ latent of the same faces.

    """
    with torch.autocast(hq.device.type, enabled=False):
        logits = _rows(hq) @ _rows(lq).t() / TEMPERATURE
        partners = torch.arange(len(logits), device=logits.device)
        loss = (F.cross_entropy(logits, partners) + F.cross_entropy(logits.t(), partners)) / 2
        right = (logits.argmax(1) == partners).float().mean() + (logits.argmax(0) == partners).float().mean()
        return Contrast(loss, right.detach() / 2)


def _rows(z: Tensor) -> Tensor:
    """(B, C, H, W) -> (B * N, C) rows of length 1, float32."""
    return F.normalize(z.float().permute(0, 2, 3, 1).flatten(0, 2))
