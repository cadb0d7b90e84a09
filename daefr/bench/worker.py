"""One side of a measurement, in a process of its own: only so is its peak memory its own."""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from daefr.bench.cases import Case, Side

READY, RUN, STOP = "ready", "run", "stop"
ALREADY_BYTES = sys.platform == "darwin"


def work(connection: Connection, case: Case, side: Side) -> None:
    """Send `READY`, then the seconds of a run at each `RUN`, and last the peak bytes."""
    run = case.prepare(side)
    run()  # which compiles, allocates the optimizers' moments and lets the libraries choose
    device = torch.device(case.device)
    connection.send(READY)
    while connection.recv() == RUN:
        connection.send(_seconds(run, device))
        if device.type == "cuda":
            torch.cuda.empty_cache()  # the other side needs the room
    connection.send(_peak_bytes(device))


def count(connection: Connection, case: Case, side: Side) -> None:
    """Send the floating-point operations of a run. What that takes is not found in the memory of what is measured."""
    connection.send(count_flops(case, side))


def count_flops(case: Case, side: Side) -> int:
    """Count multiplications and additions of convolutions and matrix products: two for each pair."""
    # the counter does not see into compiled parts; the smallest batch, as its memory counts
    speed = case.speed.model_copy(update={"compile": False})
    run = replace(case, batch=1, speed=speed).prepare(side)
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops()) * case.batch


def _seconds(run: Callable[[], Any], device: torch.device) -> float:
    _wait_for(device)
    start = time.perf_counter()
    run()
    _wait_for(device)
    return time.perf_counter() - start


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_bytes(device: torch.device) -> int:
    """The most that tensors took on an accelerator, or that the whole process, libraries and weights, took on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if ALREADY_BYTES else 1024)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the operations a second of a product of large square matrices, the best of several."""
    side = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    left @ right
    return max(2 * side**3 / _seconds(lambda: left @ right, device) for _ in range(5))
