"""One side of a benchmark, in a separate process, so that its peak memory can be measured."""

from multiprocessing.connection import Connection

import torch

from daefr.profiling import Case, count_operations, time_call, uncompiled
from daefr.training.metrics import peak_bytes
from infra.benchmarks.reference import Side, prepare_side

READY, RUN, STOP = "ready", "run", "stop"


def serve_runs(connection: Connection, case: Case, side: Side) -> None:
    """Send `READY`, then the seconds of a run for each `RUN`, and finally the peak bytes."""
    run = prepare_side(case, side)
    run()  # warm-up: compilation, allocation and autotuning
    device = torch.device(case.device)
    connection.send(READY)
    while connection.recv() == RUN:
        connection.send(time_call(run, device))
        if device.type == "cuda":
            torch.cuda.empty_cache()  # for the other side
    connection.send(peak_bytes(device))


def send_operations(connection: Connection, case: Case, side: Side) -> None:
    """Send the FLOPs of a run, which are counted in a separate process because counting needs memory."""
    connection.send(count_side(case, side))


def count_side(case: Case, side: Side) -> int:
    """Return the FLOPs of one side of a case."""
    return count_operations(prepare_side(uncompiled(case), side)) * case.batch
