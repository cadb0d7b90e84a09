"""The association of HQ and LQ features (paper section 3.2)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from daefr import ranks

TEMPERATURE = 0.07


class Contrast(NamedTuple):
    """How well the two sides recognize each other; both are scalars."""

    loss: Tensor
    accuracy: Tensor
    """Share of the positions, HQ and LQ alike, whose closest partner is the right one: in [0, 1], detached."""


def contrast(hq: Tensor, lq: Tensor, *, gather: bool = False) -> Contrast:
    """Symmetric cross-entropy that makes each HQ position recognize the LQ position of the same place and face.

    The temperature is constant, as it is in the reference, where no optimizer holds it.

    Args:
        hq: (B, C, H, W), the HQ latent before quantization.
        lq: (B, C, H, W), the LQ latent of the same faces.
        gather: whether the positions to choose from are those of all ranks, who must have equal parts, rather than
            this one's. The mean over the ranks is then the loss of the whole batch, and so are its gradients.

    """
    with torch.autocast(hq.device.type, enabled=False):
        mine, partners = (_rows(hq), _rows(lq)), torch.arange(len(hq) * hq[0, 0].numel(), device=hq.device)
        others = mine
        if gather:
            others = ranks.concatenate(mine[0]), ranks.concatenate(mine[1])
            partners = partners + ranks.rank() * len(partners)
        losses, right = zip(
            *(_recognize(*sides, partners) for sides in zip(mine, reversed(others), strict=True)), strict=True
        )
        return Contrast(torch.stack(losses).mean(), torch.stack(right).mean())


def _recognize(rows: Tensor, others: Tensor, partners: Tensor) -> tuple[Tensor, Tensor]:
    """Return loss and accuracy of finding each of `rows` (M, C) at its place among `others` (N, C)."""
    logits = rows @ others.t() / TEMPERATURE
    return F.cross_entropy(logits, partners), (logits.argmax(1) == partners).float().mean()


def _rows(z: Tensor) -> Tensor:
    """(B, C, H, W) -> (B * N, C) rows of length 1, float32."""
    return F.normalize(z.float().permute(0, 2, 3, 1).flatten(0, 2))
