"""The codebook: nearest-code quantization, its loss, and two methods against codebook collapse."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KMEANS_ITERATIONS = 10
SPREAD = 0.01


class Quantized(NamedTuple):
    """A quantized latent."""

    quantized: Tensor
    """(B, C, H, W): the nearest code at each position, with straight-through gradients."""
    loss: Tensor
    """Scalar: mean((sg[z_q] - z)^2) + beta mean((z_q - sg[z])^2)."""
    indices: Tensor
    """(B, N) int64: the code chosen for each position, row by row."""


class CodebookUsage(NamedTuple):
    """How a codebook is used: float scalars on the device of the counts."""

    perplexity: Tensor
    """exp of the entropy of the code frequencies, in [1, K]: the effective number of codes."""
    dead_fraction: Tensor
    """Fraction of the K codes that were never chosen, in [0, 1]."""


class Quantizer(nn.Module):
    """K codes of C channels; each latent position becomes the nearest one by squared distance (paper section 3.1).

    Args:
        codes: K.
        channels: C.
        beta: weight of the codebook term of the loss. As in the reference's ``VectorQuantizer``, it applies to the term
            that trains the codes, not to the one that trains the encoder.

    """

    def __init__(self, codes: int, channels: int, beta: float = 0.25) -> None:
        super().__init__()
        self.beta = beta
        self.embedding = nn.Embedding(codes, channels)
        nn.init.uniform_(self.embedding.weight, -1 / codes, 1 / codes)

    @property
    def codes(self) -> int:
        """K, the number of codes."""
        return self.embedding.num_embeddings

    def forward(self, z: Tensor) -> Quantized:
        """Quantize a latent (B, C, H, W); the result is float32, even under autocast."""
        indices = self.assign(z)
        with torch.autocast(z.device.type, enabled=False):
            z = z.float()
            codes = self._at(indices, z.shape[2], z.shape[3])
            loss = F.mse_loss(z, codes.detach()) + self.beta * F.mse_loss(codes, z.detach())
            return Quantized(z + (codes - z).detach(), loss, indices)

    def lookup(self, indices: Tensor, side: int) -> Tensor:
        """Return the codes (B, C, side, side) at `indices` (B, side * side), row by row."""
        return self._at(indices, side, side)

    @torch.no_grad()
    def assign(self, z: Tensor) -> Tensor:
        """Return the index (B, N) of the code nearest to each position of a latent (B, C, H, W), row by row."""
        # float32 even under autocast, since rounding changes the codes
        with torch.autocast(z.device.type, enabled=False):
            return _nearest(_rows(z.float()), self.embedding.weight).view(z.shape[0], -1)

    @torch.no_grad()
    def initialize(self, z: Tensor, generator: torch.Generator, iterations: int = KMEANS_ITERATIONS) -> None:
        """Set the codes to the k-means centers of a batch of latents, so that all of them are used.

        Not in the released recipe, where the codes start near zero and small networks never choose most of them.

        Args:
            z: (B, C, H, W). With fewer than K positions, some are used for several codes, with noise added.
            generator: draws the initial centers; the same seed and latents give the same codes.
            iterations: iterations of k-means.

        """
        rows = _rows(z.float())
        centers = self._draw(rows, self.codes, generator)
        for _ in range(iterations):
            nearest = _nearest(rows, centers)
            counts = count_codes(nearest, self.codes).to(rows.dtype)
            sums = torch.zeros_like(centers).index_add_(0, nearest, rows)
            # centers without rows do not move
            centers = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centers)
        self.embedding.weight.copy_(centers)

    @torch.no_grad()
    def reset_dead_codes(self, z: Tensor, counts: Tensor, generator: torch.Generator) -> int:
        """Set every code that was never chosen to a random position of a latent; return their number.

        Not in the released recipe.

        Args:
            z: (B, C, H, W).
            counts: (K,) how often each code was chosen (see `count_codes`).
            generator: draws the positions.

        """
        dead = torch.nonzero(counts == 0).flatten()
        if len(dead):
            self.embedding.weight[dead] = self._draw(_rows(z.float()), len(dead), generator)
        return len(dead)

    def _at(self, indices: Tensor, height: int, width: int) -> Tensor:
        """(B, N) -> (B, C, height, width)."""
        codes = F.embedding(indices, self.embedding.weight)
        return codes.view(len(indices), height, width, -1).permute(0, 3, 1, 2)

    @staticmethod
    def _draw(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Return `count` rows (count, C) drawn from `rows` (M, C), without replacement if M is large enough."""
        order = torch.randperm(len(rows), generator=generator, device=generator.device)
        drawn = rows[order.repeat(-(-count // len(rows)))[:count].to(rows.device)]
        if count > len(rows):
            noise = torch.randn(drawn.shape, generator=generator, device=generator.device).to(rows.device)
            # of equal codes, only the first would ever be chosen
            drawn = drawn + SPREAD * rows.std() * noise
        return drawn


def count_codes(indices: Tensor, codes: int) -> Tensor:
    """Return how often each of `codes` codes occurs in `indices` (any shape): (codes,) int64."""
    # bincount would make the host wait for the GPU
    flat = indices.flatten()
    return torch.zeros(codes, dtype=torch.int64, device=flat.device).scatter_add_(0, flat, torch.ones_like(flat))


def codebook_usage(counts: Tensor) -> CodebookUsage:
    """Return how a codebook is used, from how often each code was chosen: (K,), not all zero."""
    frequencies = counts.float() / counts.sum()
    return CodebookUsage(torch.special.entr(frequencies).sum().exp(), (counts == 0).float().mean())


def _rows(z: Tensor) -> Tensor:
    """(B, C, H, W) -> (B * N, C)."""
    return z.detach().permute(0, 2, 3, 1).flatten(0, 2)


def _nearest(rows: Tensor, codes: Tensor) -> Tensor:
    """(M, C), (K, C) -> (M,). |row|^2 is omitted, because it is the same for every code."""
    return torch.addmm(codes.square().sum(1), rows, codes.t(), alpha=-2).argmin(1)
