"""Measures both sides of a case alternately."""

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

from daefr.errors import UserError
from daefr.profiling import Case
from infra.benchmarks.reference import Side
from infra.benchmarks.worker import RUN, STOP, send_operations, serve_runs

SIDES: tuple[Side, ...] = ("ours", "reference")
WorkerTask = Callable[[Connection, Case, Side], None]


@dataclass(frozen=True)
class CaseCost:
    """The cost of a case: median seconds and peak memory; None for the reference if it was not run."""

    seconds: float
    reference_seconds: float | None
    ratio: float | None
    samples_per_second: float
    reference_samples_per_second: float | None
    peak_bytes: int
    reference_peak_bytes: int | None
    operations_per_second: float
    """FLOP/s of our side, for convolutions and matrix products."""
    fraction_of_matrix_rate: float


def measure_sides(case: Case, repetitions: int, matrix_rate: float, sides: Sequence[Side] = SIDES) -> CaseCost:
    """Run the sides alternately, so that other load on the machine affects them equally.

    Raises:
        UserError: if a side cannot be run.

    """
    counter = Worker(send_operations, case, "ours")
    counter.end()
    workers = {side: Worker(serve_runs, case, side) for side in sides}
    try:
        seconds: dict[Side, list[float]] = {side: [] for side in sides}
        for _ in range(repetitions):
            for side, worker in workers.items():
                seconds[side].append(worker.run())
        peaks = {side: worker.stop() for side, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.end()
    ours = median(seconds["ours"])
    reference = median(seconds["reference"]) if "reference" in sides else None
    rate = counter.first_message / ours
    return CaseCost(
        seconds=ours,
        reference_seconds=reference,
        ratio=ours / reference if reference else None,
        samples_per_second=case.batch / ours,
        reference_samples_per_second=case.batch / reference if reference else None,
        peak_bytes=peaks["ours"],
        reference_peak_bytes=peaks.get("reference"),
        operations_per_second=rate,
        fraction_of_matrix_rate=rate / matrix_rate,
    )


class Worker:
    """A process that counts the operations of one side of a case, or runs it on request."""

    def __init__(self, task: WorkerTask, case: Case, side: Side) -> None:
        """Start it, and wait for its first message."""
        context = multiprocessing.get_context("spawn")
        self._what = f"{case.name}, {side}"
        self._connection: Connection
        self._connection, child_connection = context.Pipe()
        self._process = context.Process(target=task, args=(child_connection, case, side), daemon=True)
        self._process.start()
        child_connection.close()
        self.first_message = self._receive()

    def run(self) -> float:
        """Run once; return the seconds."""
        self._connection.send(RUN)
        return float(self._receive())

    def stop(self) -> int:
        """Return the peak memory in bytes."""
        self._connection.send(STOP)
        return int(self._receive())

    def end(self) -> None:
        """Terminate the process."""
        self._connection.close()
        self._process.terminate()
        self._process.join()

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except EOFError:
            raise UserError(f"{self._what}: the process failed; see above") from None
