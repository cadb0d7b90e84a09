"""The transformer that predicts a code for each position of the fused feature (paper section 3.3)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daefr.settings.network import RestorationConfig


class PredictorLayer(nn.Module):
    """A pre-norm transformer layer; the position embedding is added to queries and keys, not to values."""

    def __init__(self, width: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.self_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, mlp)
        self.linear2 = nn.Linear(mlp, width)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """`x` (B, N, width), `position` (N, width) -> (B, N, width)."""
        normed = self.norm1(x)
        placed = normed + position
        x = x + self.self_attn(placed, placed, normed, need_weights=False)[0]
        return x + self.linear2(F.gelu(self.linear1(self.norm2(x))))  # type: ignore[no-any-return]


class CodePredictor(nn.Module):
    """Fused feature (B, C, S, S) -> logits (B, N, K) of the code at each position."""

    def __init__(self, config: RestorationConfig) -> None:
        super().__init__()
        sizes, predictor = config.autoencoder, config.predictor
        self.feat_emb = nn.Linear(sizes.code_channels, predictor.width)
        self.position_emb = nn.Parameter(torch.zeros(sizes.tokens, predictor.width))
        self.layers = nn.ModuleList(
            PredictorLayer(predictor.width, predictor.heads, predictor.mlp) for _ in range(predictor.layers)
        )
        self.norm = nn.LayerNorm(predictor.width)
        self.head = nn.Linear(predictor.width, sizes.codes, bias=False)

    def forward(self, feature: Tensor) -> Tensor:
        """Return the logits; position n is row n // S, column n % S of `feature`."""
        x = self.feat_emb(feature.flatten(2).transpose(1, 2))
        for layer in self.layers:
            x = layer(x, self.position_emb)
        return self.head(self.norm(x))  # type: ignore[no-any-return]
