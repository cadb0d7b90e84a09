"""The duration of each phase of a step, measured without synchronizing with the device."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import GradBucket  # type: ignore[attr-defined]
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

Mark = float | torch.cuda.Event


class Clock:
    """Times phases of steps: with the host's clock on a CPU, with CUDA events on a GPU.

    `communication` is the all-reduce of gradients, which overlaps with `backward`.
    """

    def __init__(self, device: torch.device) -> None:
        """Time work on `device`."""
        self._on_gpu = device.type == "cuda"
        self._spans: dict[str, list[tuple[Mark, Mark]]] = defaultdict(list)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Time a block as part of a phase."""
        start = self._mark()
        try:
            yield
        finally:
            self._spans[phase].append((start, self._mark()))

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time how long the host waits for data."""
        start = time.perf_counter()
        yield
        self._spans["data"].append((start, time.perf_counter()))

    def all_reduce(self, group: dist.ProcessGroup | None, bucket: GradBucket) -> torch.futures.Future[Tensor]:
        """Average a bucket of gradients like DistributedDataParallel's default hook, and time it."""
        start = self._mark()

        def done(averaged: torch.futures.Future[Tensor]) -> Tensor:
            self._spans["communication"].append((start, self._mark()))
            return averaged.value()

        return allreduce_hook(group, bucket).then(done)  # type: ignore[arg-type]

    def flush(self) -> dict[str, float]:
        """Return the seconds of every phase since the last call. The device must be synchronized."""
        spans, self._spans = self._spans, defaultdict(list)
        return {phase: _covered([self._seconds(span, spans[phase][0][0]) for span in spans[phase]]) for phase in spans}

    def _mark(self) -> Mark:
        if not self._on_gpu:
            return time.perf_counter()
        event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _seconds(self, span: tuple[Mark, Mark], origin: Mark) -> tuple[float, float]:
        start, end = (_between(origin, mark) for mark in span)
        return start, end


def _between(start: Mark, end: Mark) -> float:
    # all marks of a phase have the same type
    if isinstance(start, float) and isinstance(end, float):
        return end - start
    assert isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event)  # noqa: S101
    return float(start.elapsed_time(end)) / 1000


def _covered(spans: list[tuple[float, float]]) -> float:
    """Return the time that spans (start, end) cover, counting overlaps once."""
    covered, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered
