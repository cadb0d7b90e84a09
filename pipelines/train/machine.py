"""MLflow's system metrics of the machines that train."""

import logging
import threading
import time
from typing import Any

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from pipelines.tracking.client import MetricWriter, Tracking

INTERVAL = 10.0


class MachineMetrics:
    """Logs the metrics of one machine from a background thread.

    MLflow's own thread ends when the server is unreachable.
    """

    def __init__(self, tracking: Tracking, run_id: str, node: int, writer: MetricWriter) -> None:
        """Start the thread; `node` numbers the machines of a run."""
        self._uri, self._run_id = tracking.uri, run_id
        self._prefix = f"system/node_{node}/" if node else "system/"
        self._writer, self._closed = writer, threading.Event()
        threading.Thread(target=self._measure, name="machine", daemon=True).start()

    def close(self) -> None:
        """Stop the thread."""
        self._closed.set()

    def _measure(self) -> None:
        logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)  # it warns if there is no GPU
        system_monitor = SystemMetricsMonitor(self._run_id, tracking_uri=self._uri)  # type: ignore[no-untyped-call]
        monitors: list[Any] = system_monitor.monitors
        while not self._closed.wait(INTERVAL):
            for monitor in monitors:
                monitor.collect_metrics()
                metrics = monitor.aggregate_metrics()
                monitor.clear_metrics()
                self._writer.log(int(time.time()), {f"{self._prefix}{name}": metrics[name] for name in metrics})
