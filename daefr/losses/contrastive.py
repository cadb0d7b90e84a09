"""The association of HQ and LQ features (paper section 3.2)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from daefr import ranks

TEMPERATURE = 0.07


class ContrastiveLoss(NamedTuple):
    """How well the two sides are matched; both are scalars."""

    loss: Tensor
    accuracy: Tensor
    """Share of the positions, HQ and LQ alike, whose nearest neighbour is the matching one: in [0, 1], detached."""


def contrastive_loss(hq: Tensor, lq: Tensor, *, gather: bool = False) -> ContrastiveLoss:
    """Symmetric cross-entropy (InfoNCE) that matches each HQ position with the LQ position of the same place and face.

    The temperature is constant, as in the reference, where it is in no optimizer.

    Args:
        hq: (B, C, H, W), the HQ latent before quantization.
        lq: (B, C, H, W), the LQ latent of the same faces.
        gather: whether the candidates are the positions of all ranks, which must have equal parts, rather than this
            rank's. The mean over the ranks is then the loss of the global batch, and so are its gradients.

    """
    with torch.autocast(hq.device.type, enabled=False):
        mine, partners = (_rows(hq), _rows(lq)), torch.arange(len(hq) * hq[0, 0].numel(), device=hq.device)
        others = mine
        if gather:
            others = ranks.concatenate(mine[0]), ranks.concatenate(mine[1])
            partners = partners + ranks.rank() * len(partners)
        losses, accuracies = zip(
            *(_info_nce(*sides, partners) for sides in zip(mine, reversed(others), strict=True)), strict=True
        )
        return ContrastiveLoss(torch.stack(losses).mean(), torch.stack(accuracies).mean())


def _info_nce(rows: Tensor, others: Tensor, partners: Tensor) -> tuple[Tensor, Tensor]:
    """Return loss and accuracy of finding the partner of each of `rows` (M, C) among `others` (N, C)."""
    logits = rows @ others.t() / TEMPERATURE
    return F.cross_entropy(logits, partners), (logits.argmax(1) == partners).float().mean()


def _rows(z: Tensor) -> Tensor:
    """(B, C, H, W) -> (B * N, C) rows of length 1, float32."""
    return F.normalize(z.float().permute(0, 2, 3, 1).flatten(0, 2))
