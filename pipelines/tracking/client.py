"""Runs and metrics in MLflow: one parent run per pipeline and one child run per step, all resumable.

All calls use an explicit ``MlflowClient``. The fluent API, such as ``mlflow.start_run``, keeps the active run in
process-wide state, which Ray workers do not inherit.
"""

import json
import logging
import math
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from types import TracebackType
from typing import Any, Literal, Self, cast

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from numpy.typing import NDArray

from daefr.errors import UserError, is_disk_full, one_line
from daefr.settings.result_keys import flatten_settings
from pipelines.tracking.database import FOLDER, artifact_address, open_database, sqlite_path
from pipelines.tracking.retry import RetryingClient

logger = logging.getLogger(__name__)

FINGERPRINT = "daefr.fingerprint"
FAILURE = "daefr.failure"
PARENT = "mlflow.parentRunId"
REVISION = "mlflow.source.git.commit"

# MLflow's limits: it rejects larger batches, and truncates or rejects longer values depending on the server.
_PARAM_LENGTH = 6000
_TAG_LENGTH = 8000
_PARAMS_PER_BATCH = 100
_METRICS_PER_BATCH = 1000

# Otherwise, MLflow's UI opens with its pages for language models.
_MODEL_TRAINING = {"mlflow.experimentKind": "custom_model_development"}

_METRIC_NAME = re.compile(r"\w[\w.\- ]*(/\w[\w.\- ]*)*")
_MAX_PAUSE = 60.0


@dataclass(frozen=True)
class Tracking:
    """One experiment on one MLflow server, which the driver opens with :meth:`open`. It can be sent to Ray workers."""

    uri: str
    experiment_id: str
    revision: str = ""
    unavailable_timeout_s: float = 0
    """How long a call is retried while the server is unreachable."""

    @classmethod
    def open(
        cls, uri: str, experiment: str, artifacts: str | None, revision: str = "", unavailable_timeout_s: float = 0
    ) -> Self:
        """Connect, and create the database and the experiment if they do not exist.

        Args:
            uri: ``sqlite:///path/to.db`` (all processes on one machine; see `database.sqlite_uri`) or
                ``http(s)://server``.
            experiment: Name of the experiment.
            artifacts: Folder or URI for the artifacts of a new experiment, None for the server's own.
            revision: Git revision to record on every run.
            unavailable_timeout_s: How long later calls are retried while the server is unreachable.

        Raises:
            UserError: The server cannot be reached or used.

        """
        try:
            database = sqlite_path(uri)  # absolute, as a worker has another working directory
            if database is not None:
                uri = open_database(database, lambda at: _client(at).search_experiments(max_results=1))
            client = _client(uri)
            with _short_timeouts():
                found = client.get_experiment_by_name(experiment)
                if found is None:
                    location = None if artifacts is None else artifact_address(artifacts)
                    tags = _MODEL_TRAINING | ({} if database is None else {FOLDER: str(database.parent)})
                    created = client.create_experiment(experiment, artifact_location=location, tags=tags)
                    return cls(uri, created, revision, unavailable_timeout_s)
        except UserError:
            raise
        # MLflow also raises errors of alembic, SQLAlchemy and requests, so there is no narrower class.
        except Exception as error:
            raise UserError(f"The tracking server {uri!r} cannot be used: {one_line(error, 200)}") from error
        if found.lifecycle_stage != "active":
            raise UserError(f"The experiment {experiment!r} at {uri} was deleted; restore it or choose another name.")
        return cls(uri, found.experiment_id, revision, unavailable_timeout_s)

    @cached_property
    def client(self) -> MlflowClient:
        """The client of this process, for tracking and registry alike."""
        return cast(MlflowClient, RetryingClient(_client(self.uri), self.unavailable_timeout_s, logger.warning))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "client"}

    def start_run(
        self,
        name: str,
        fingerprint: str,
        parent: str | None = None,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Resume the unfinished run of this fingerprint, or create one; return its id.

        A resumed child run moves to the new ``parent``, so that a step's curves continue if only the pipeline around it
        has changed. Parameters are nested dictionaries. MLflow cannot change a parameter, so a resumed run keeps the
        first values, with a warning.
        """
        own = {FINGERPRINT: fingerprint, REVISION: self.revision, PARENT: parent or ""}
        tags = {key: value[:_TAG_LENGTH] for key, value in {**(tags or {}), **own}.items() if value}
        run = self._unfinished(fingerprint, is_child=parent is not None)
        if run is None:
            run = self.client.create_run(self.experiment_id, tags=tags, run_name=name)
        else:
            self.client.update_run(run.info.run_id, status="RUNNING", name=name)
            self.client.log_batch(run.info.run_id, tags=[RunTag(*tag) for tag in tags.items()], synchronous=True)
            if FAILURE in run.data.tags:
                self.client.delete_tag(run.info.run_id, FAILURE)
        self._log_params(run, flatten(params or {}))
        return str(run.info.run_id)

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        """Set a tag of a run, cut to MLflow's limit."""
        self.client.set_tag(run_id, key, value[:_TAG_LENGTH])

    def finish(self, run_id: str, status: Literal["FINISHED", "FAILED", "KILLED"], reason: str = "") -> None:
        """End a run, with the reason of a failure as a tag."""
        if reason:
            self.set_tag(run_id, FAILURE, one_line(reason, 500))
        self.client.set_terminated(run_id, status)

    def kill_children(self, run_id: str) -> None:
        """Mark the running runs below a run as killed."""
        query = f"tags.`{PARENT}` = '{run_id}' and attributes.status = 'RUNNING'"
        for run in self.client.search_runs([self.experiment_id], query):
            self.finish(run.info.run_id, "KILLED")

    def _unfinished(self, fingerprint: str, is_child: bool) -> Run | None:
        runs = self.client.search_runs(
            [self.experiment_id],
            f"tags.`{FINGERPRINT}` = '{fingerprint}' and attributes.status != 'FINISHED'",
            order_by=["attributes.start_time DESC"],
        )
        return next((run for run in runs if (PARENT in run.data.tags) == is_child), None)

    def _log_params(self, run: Run, params: Mapping[str, str]) -> None:
        present = run.data.params
        changed = sorted(key for key, value in params.items() if present.get(key, value) != value)
        if changed:
            logger.warning("Run %s keeps the first values of these parameters: %s", run.info.run_id, ", ".join(changed))
        new = [Param(key, value) for key, value in params.items() if key not in present]
        for start in range(0, len(new), _PARAMS_PER_BATCH):
            self.client.log_batch(run.info.run_id, params=new[start : start + _PARAMS_PER_BATCH], synchronous=True)


class MetricWriter:
    """Sends the metrics and images of one run on a background thread, so that training does not wait.

    While the server is unreachable they are buffered, at about 200 bytes per value plus the pixels of each image; only
    :meth:`close` gives up, with an error logged.
    """

    def __init__(self, tracking: Tracking, run_id: str, every: float = 5.0) -> None:
        """Start the thread, which sends every ``every`` seconds."""
        self._tracking = tracking
        self._run_id = run_id
        # the thread retries by itself
        self._without_retries = (
            replace(tracking, unavailable_timeout_s=0) if tracking.unavailable_timeout_s else tracking
        )
        self._every = every
        self._lock = threading.Lock()
        self._metrics: list[Metric] = []
        self._images: list[tuple[str, NDArray[np.uint8]]] = []
        self._warned: set[str] = set()
        self._deadline = math.inf
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._send_until_closed, name=f"metrics-{run_id[:8]}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log values of one step, as Python floats: reading a tensor would wait for its device.

        Values that are not finite (MLflow's SQL stores turn NaN into 0 and infinity into 1.8e308) and names that MLflow
        rejects, together with their batch, are skipped with one warning per name.
        """
        now = int(time.time() * 1000)
        metrics = []
        for name, value in values.items():
            if math.isfinite(value) and _METRIC_NAME.fullmatch(name):
                metrics.append(Metric(name, float(value), now, step))
            elif name not in self._warned:
                self._warned.add(name)
                logger.warning("Metric %r of step %d is not logged: its value is %r", name, step, value)
        with self._lock:
            self._metrics.extend(metrics)

    def image(self, name: str, step: int, rgb: NDArray[np.uint8]) -> None:
        """Log an RGB image (H, W, 3) as the artifact ``images/NAME/stepNNNNNN.png``; a resumed run overwrites it."""
        with self._lock:
            self._images.append((f"images/{name}/step{step:06d}.png", rgb.copy()))

    def flush(self, timeout: float = 5.0) -> None:
        """Wait until everything is sent, for at most ``timeout`` seconds; the rest stays buffered."""
        deadline = time.monotonic() + timeout
        self._wake.set()
        while (self._metrics or self._images) and time.monotonic() < deadline:
            time.sleep(0.01)

    def unsent(self) -> list[list[Any]]:
        """Return the values that are not sent yet, which a checkpoint stores for `resend`."""
        with self._lock:
            return [[metric.key, metric.value, metric.timestamp, metric.step] for metric in self._metrics]

    def resend(self, unsent: list[list[Any]]) -> None:
        """Log what `unsent` returned; MLflow ignores duplicates."""
        with self._lock:
            self._metrics.extend(Metric(*value) for value in unsent)

    def close(self, timeout: float | None = None) -> None:
        """Send the rest, for a minute or `Tracking.unavailable_timeout_s`; what is not sent by then is lost.

        It is also lost if the disk is full.
        """
        timeout = max(60.0, self._tracking.unavailable_timeout_s) if timeout is None else timeout
        self._deadline = time.monotonic() + timeout
        self._wake.set()
        self._thread.join(timeout)
        with self._lock:
            if self._metrics or self._images:
                logger.error(
                    "Run %s on %s: %d metric values and %d images are lost, because they could not be stored",
                    self._run_id,
                    self._tracking.uri,
                    len(self._metrics),
                    len(self._images),
                )

    def _send_until_closed(self) -> None:
        pause = self._every
        failing = False
        while True:
            self._wake.wait(pause)
            self._wake.clear()
            try:
                self._send()
            except Exception as error:  # any error may be temporary, and must not affect the training
                if not failing:
                    logger.warning("Cannot send metrics to %s, retrying: %s", self._tracking.uri, one_line(error, 300))
                failing = True
                if self._deadline < math.inf and is_disk_full(error):
                    return  # waiting does not free space
                pause = min(2 * pause, _MAX_PAUSE)
            else:
                failing = False
                pause = self._every
            if self._deadline < math.inf:
                if not failing or time.monotonic() > self._deadline:
                    return
                pause = min(pause, 1.0)

    def _send(self) -> None:
        # Items are removed after they have arrived; MLflow ignores duplicates. Only this thread removes items, so it
        # can read without the lock.
        while batch := self._metrics[:_METRICS_PER_BATCH]:
            self._without_retries.client.log_batch(self._run_id, metrics=batch, synchronous=True)
            with self._lock:
                del self._metrics[: len(batch)]
        while self._images:
            path, rgb = self._images[0]
            self._without_retries.client.log_image(self._run_id, rgb, artifact_file=path)
            with self._lock:
                del self._images[0]


def flatten(params: Mapping[str, Any]) -> dict[str, str]:
    """Return parameters by dotted key, values other than texts as JSON, cut to MLflow's limit."""
    texts = {
        key: value if isinstance(value, str) else json.dumps(value, default=str)
        for key, value in flatten_settings(params).items()
    }
    return {key: text[:_PARAM_LENGTH] for key, text in texts.items()}


def _client(uri: str) -> MlflowClient:
    # MLflow's default of seven retries takes four minutes; three take 15 seconds.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # MLflow logs every error of the database with its traceback, and raises it as well.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    # It warns about every retry; `RetryingClient` logs one line per outage.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextmanager
def _short_timeouts() -> Iterator[None]:
    """Shorten MLflow's time-outs, which it only reads from the environment, for the first request."""
    short = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    before = {key: os.environ.get(key) for key in short}
    os.environ.update(short)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value
