"""Averages of the metrics of training steps, which stay on the device until they are logged."""

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from daefr import ranks
from daefr.network.quantizer import codebook_usage, count_codes
from daefr.training.clock import Clock


class MetricWindow:
    """The metrics since the last `flush`, which stay on the device until then, so that no step waits for them."""

    def __init__(self, codes: int, clock: Clock, device: torch.device) -> None:
        """Collect metrics of steps on `device`, with codebooks of `codes` entries; `clock` times their phases."""
        self._codes, self._clock, self._device = codes, clock, device
        self._clear()

    def _clear(self) -> None:
        self._values: dict[str, list[Tensor]] = defaultdict(list)
        self._counts: dict[str, Tensor] = {}
        self._steps = self._samples = 0
        self._start, self._start_of_process = time.perf_counter(), time.process_time()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude a block, such as a validation, from the times and rates of the steps."""
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)  # finish the steps before
        start, start_of_process = time.perf_counter(), time.process_time()
        yield
        self._start += time.perf_counter() - start
        self._start_of_process += time.process_time() - start_of_process

    def add(self, terms: dict[str, Tensor], indices: dict[str, Tensor], samples: int) -> None:
        """Add a step: its terms (scalars), the chosen codes by codebook, and the size of its global batch."""
        for name, term in terms.items():
            self._values[name].append(term)
        for name, used in indices.items():
            counts = count_codes(used, self._codes)
            self._counts[name] = self._counts[name] + counts if name in self._counts else counts
        self._steps += 1
        self._samples += samples

    def flush(self) -> dict[str, float]:
        """Return averages over steps and ranks, and start a new window. Every rank must call it at the same step."""
        # one transfer instead of one per value
        means = ranks.average(torch.stack([torch.stack(self._values[name]).mean() for name in sorted(self._values)]))
        values = dict(zip(sorted(self._values), means.tolist(), strict=True))
        for name, counts in sorted(self._counts.items()):
            usage = codebook_usage(ranks.total(counts))
            values[label(name, "codebook_perplexity")] = float(usage.perplexity)
            values[label(name, "dead_codes")] = float(usage.dead_fraction)
        values |= self._costs()
        self._clear()
        return values

    def _costs(self) -> dict[str, float]:
        """Return the seconds per step of each phase, and the resource usage of this rank."""
        seconds = time.perf_counter() - self._start
        costs = {f"{phase}_seconds": spent / self._steps for phase, spent in self._clock.flush().items()}
        costs["step_seconds"] = seconds / self._steps
        costs["samples_per_second"] = self._samples / seconds
        costs["samples_per_second_per_device"] = self._samples / seconds / ranks.count()
        costs["cores_in_use"] = (time.process_time() - self._start_of_process) / seconds
        costs["memory_megabytes"] = peak_bytes(self._device) / 1e6
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        return costs


def peak_bytes(device: torch.device) -> int:
    """Return the peak memory of tensors on a GPU, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def label(codebook: str, name: str) -> str:
    """Return the name of a codebook's metric."""
    return f"{codebook}_{name}" if codebook else name
