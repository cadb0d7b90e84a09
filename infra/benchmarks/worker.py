"""One side of a measurement, in a process of its own: only so is its peak memory its own."""

from multiprocessing.connection import Connection

import torch

from daefr.profiling import Case, count_operations, peak_bytes, time_call, uncompiled
from infra.benchmarks.reference_way import Side, prepare_side

READY, RUN, STOP = "ready", "run", "stop"


def serve_runs(connection: Connection, case: Case, side: Side) -> None:
    """Send `READY`, then the seconds of a run at each `RUN`, and last the peak bytes."""
    run = prepare_side(case, side)
    run()  # which compiles, allocates the optimizers' moments and lets the libraries choose
    device = torch.device(case.device)
    connection.send(READY)
    while connection.recv() == RUN:
        connection.send(time_call(run, device))
        if device.type == "cuda":
            torch.cuda.empty_cache()  # the other side needs the room
    connection.send(peak_bytes(device))


def send_operations(connection: Connection, case: Case, side: Side) -> None:
    """Send the operations of a run. What counting takes is not found in the memory of what is measured."""
    connection.send(count_side(case, side))


def count_side(case: Case, side: Side) -> int:
    """Count the operations of one side of a case."""
    return count_operations(prepare_side(uncompiled(case), side)) * case.batch
