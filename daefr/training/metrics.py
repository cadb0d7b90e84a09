"""Averages of what training steps report, kept on the device until somebody asks."""

import time
from collections import defaultdict

import torch
from torch import Tensor

from daefr.network.quantizer import codebook_usage, count_codes
from daefr.ranks import average, total


class MetricWindow:
    """The steps since the last `flush`. Nothing is moved off the device before, so no step waits for it."""

    def __init__(self, codes: int) -> None:
        """Begin, for codebooks of `codes` entries."""
        self._codes = codes
        self._clear()

    def _clear(self) -> None:
        self._values: dict[str, list[Tensor]] = defaultdict(list)
        self._counts: dict[str, Tensor] = {}
        self._samples = 0
        self._start = time.perf_counter()

    def add(self, terms: dict[str, Tensor], indices: dict[str, Tensor], samples: int) -> None:
        """Add one step: its terms (scalars), the codes it used by codebook, and the size of its global batch."""
        for name, term in terms.items():
            self._values[name].append(term)
        for name, used in indices.items():
            counts = count_codes(used, self._codes)
            self._counts[name] = self._counts[name] + counts if name in self._counts else counts
        self._samples += samples

    def flush(self) -> dict[str, float]:
        """Return the averages over steps and ranks, and begin anew. Every rank must call it at the same step."""
        seconds = time.perf_counter() - self._start
        values = {name: float(average(torch.stack(terms).mean())) for name, terms in sorted(self._values.items())}
        for name, counts in sorted(self._counts.items()):
            usage = codebook_usage(total(counts))
            values[label(name, "codebook_perplexity")] = float(usage.perplexity)
            values[label(name, "dead_codes")] = float(usage.dead_share)
        values["samples_per_second"] = self._samples / seconds
        self._clear()
        return values


def label(codebook: str, name: str) -> str:
    """Name a metric of one of several codebooks."""
    return f"{codebook}_{name}" if codebook else name
