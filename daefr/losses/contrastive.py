"""The association of HQ and LQ features (paper section 3.2)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from daefr import ranks

TEMPERATURE = 0.07


class ContrastiveLoss(NamedTuple):
    """The loss and the accuracy of matching HQ and LQ features, both scalars."""

    loss: Tensor
    accuracy: Tensor
    """Fraction of the positions of both sides whose nearest neighbor is the matching one: in [0, 1], detached."""


def contrastive_loss(hq: Tensor, lq: Tensor, *, gather: bool = False) -> ContrastiveLoss:
    """Symmetric cross-entropy (InfoNCE) that matches each HQ position with the LQ position of the same face.

    The temperature is constant, as in the reference, which does not optimize it.

    Args:
        hq: (B, C, H, W), the HQ latent before quantization.
        lq: (B, C, H, W), the LQ latent of the same faces.
        gather: whether the keys are the positions of all ranks, which must have equal parts, rather than this rank's.
            The mean over the ranks is then the loss of the global batch, and so are its gradients.

    """
    with torch.autocast(hq.device.type, enabled=False):
        queries, matches = (_rows(hq), _rows(lq)), torch.arange(len(hq) * hq[0, 0].numel(), device=hq.device)
        keys = queries
        if gather:
            keys = ranks.concatenate(queries[0]), ranks.concatenate(queries[1])
            matches = matches + ranks.rank() * len(matches)
        losses, accuracies = zip(
            *(_info_nce(*sides, matches) for sides in zip(queries, reversed(keys), strict=True)), strict=True
        )
        return ContrastiveLoss(torch.stack(losses).mean(), torch.stack(accuracies).mean())


def _info_nce(queries: Tensor, keys: Tensor, matches: Tensor) -> tuple[Tensor, Tensor]:
    """Return loss and accuracy of finding the match of each of `queries` (M, C) among `keys` (N, C)."""
    logits = queries @ keys.t() / TEMPERATURE
    return F.cross_entropy(logits, matches), (logits.argmax(1) == matches).float().mean()


def _rows(z: Tensor) -> Tensor:
    """(B, C, H, W) -> (B * N, C) float32, normalized rows."""
    return F.normalize(z.float().permute(0, 2, 3, 1).flatten(0, 2))
