"""A histogram of codebook usage."""

from collections.abc import Mapping

import cv2
import numpy as np
from torch import Tensor

from daefr.images import Image
from daefr.network.quantizer import codebook_usage

WIDTH, HEIGHT, TITLE = 768, 160, 24
BAR, BACK, INK = (40, 90, 160), (255, 255, 255), (0, 0, 0)


def draw_usage(counts: Mapping[str, Tensor]) -> Image:
    """Draw how often each code was chosen, (K,) for every codebook by name, in descending order and on a log scale."""
    return np.concatenate([_panel(name, each) for name, each in counts.items()])


def _panel(name: str, counts: Tensor) -> Image:
    sorted_counts = np.sort(counts.cpu().numpy())[::-1]
    heights = np.log1p(sorted_counts) / np.log1p(sorted_counts[0])
    columns = heights[np.arange(WIDTH) * len(heights) // WIDTH]
    rows = np.arange(HEIGHT, 0, -1)[:, None] / HEIGHT
    bars = np.where((rows <= columns)[:, :, None], np.array(BAR, np.uint8), np.array(BACK, np.uint8))
    perplexity = float(codebook_usage(counts).perplexity)
    used = f"{name} codebook: ".lstrip() + f"{(sorted_counts > 0).sum()} of {len(counts)} codes used"
    title = np.full((TITLE, WIDTH, 3), BACK, np.uint8)
    cv2.putText(title, f"{used}, perplexity {perplexity:.1f}", (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, INK)
    return np.concatenate([title, bars])
