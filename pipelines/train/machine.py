"""Load and memory of the machines that train, as MLflow measures them, on the run's page under System metrics."""

import logging
import threading
import time
from typing import Any

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from pipelines.tracking.client import MetricWriter, Tracking

EVERY = 10.0


class MachineMetrics:
    """Measures one machine from a thread of its own, and goes on while the MLflow server is away.

    MLflow's own thread ends for good when the server does not answer.
    """

    def __init__(self, tracking: Tracking, run_id: str, node: int, writer: MetricWriter) -> None:
        """Begin to measure; the machines of a run are numbered by `node`."""
        self._uri, self._run_id = tracking.uri, run_id
        self._prefix = f"system/node_{node}/" if node else "system/"
        self._writer, self._closed = writer, threading.Event()
        threading.Thread(target=self._measure, name="machine", daemon=True).start()

    def close(self) -> None:
        """Measure no more."""
        self._closed.set()

    def _measure(self) -> None:
        logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)  # that there is no GPU is no news
        of_mlflow = SystemMetricsMonitor(self._run_id, tracking_uri=self._uri)  # type: ignore[no-untyped-call]
        monitors: list[Any] = of_mlflow.monitors
        while not self._closed.wait(EVERY):
            for monitor in monitors:
                monitor.collect_metrics()
                measured = monitor.aggregate_metrics()
                monitor.clear_metrics()
                self._writer.log(int(time.time()), {f"{self._prefix}{name}": measured[name] for name in measured})
