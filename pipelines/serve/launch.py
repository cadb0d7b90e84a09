"""Serve a restoration model: a page, and `POST /restore`. Follows the model's alias without a restart."""

import contextlib
import ipaddress
import json
import os
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from daefr.errors import UserError
from daefr.faces.detector import find_detector
from pipelines.engine import cluster
from pipelines.engine.progress import say
from pipelines.engine.restoration import RestorationSettings, located
from pipelines.serve.settings import ServeCompute, ServeConfig
from pipelines.tracking.client import Tracking
from pipelines.tracking.models import find_model


@dataclass(frozen=True)
class ServiceLauncher:
    """A service to be started: its model, its limits and its replicas. `token` is a digest."""

    restoration: RestorationSettings
    limits: ServeConfig
    compute: ServeCompute
    tracking: Tracking
    token: bytes | None

    def run(self) -> None:
        """Serve until the process is interrupted."""
        with self.started() as address:
            say(f"serving {self.restoration.model} at {address}; Ctrl-C ends it")
            with contextlib.suppress(KeyboardInterrupt):
                signal.signal(signal.SIGTERM, signal.default_int_handler)  # which ends a job
                _watch(address, self.limits)

    @contextlib.contextmanager
    def started(self) -> Iterator[str]:
        """Serve while the block runs; gives the address.

        Raises `UserError` for a model or port that is not available, and `StepFailedError` when no replica starts.
        """
        settings, limits = located(self.restoration), self.limits
        find_model(self.tracking, settings.model)
        if not settings.aligned:
            find_detector(settings.detector)
        own_cluster = not cluster.joins_existing()
        if own_cluster:
            _check_port(limits.host, limits.port)
            for check in ("READY", "HEALTH"):  # on a busy machine, what Serve takes for dead has only not started yet
                os.environ.setdefault(f"RAY_SERVE_PROXY_{check}_CHECK_TIMEOUT_S", "60")
        cluster.connect()
        # Serve takes seconds to import, which a mistake in the configuration should not have to wait for
        from pipelines.serve.app import ReplicaConfig  # noqa: PLC0415
        from pipelines.serve.deploy import deploy, withdraw  # noqa: PLC0415

        try:
            deploy(ReplicaConfig(settings, limits, self.compute, self.tracking, self.token))
            try:
                yield _address(limits)
            finally:
                withdraw(everything=own_cluster)
        finally:
            cluster.disconnect()


def _address(limits: ServeConfig) -> str:
    """Return where the service is reached from this machine."""
    try:
        everywhere = ipaddress.ip_address(limits.host).is_unspecified
    except ValueError:
        everywhere = False
    host = "localhost" if everywhere else f"[{limits.host}]" if ":" in limits.host else limits.host
    return f"http://{host}:{limits.port}/"


def _check_port(host: str, port: int) -> None:
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        raise UserError(f"serve.host={host} serve.port={port} cannot be listened at: {error.strerror}") from None


def _watch(address: str, limits: ServeConfig) -> None:
    """Print which model is in service when that changes, and when something is wrong."""
    token = limits.token.read_text().strip() if limits.token else ""
    health = urllib.request.Request(f"{address}health", headers={"Authorization": f"Bearer {token}"})  # noqa: S310
    printed = ""
    while True:
        try:
            with urllib.request.urlopen(health, timeout=30) as answer:  # noqa: S310  # our own address
                found = json.load(answer)
            news = f"in service: {found['model']}" + (f", although {found['problem']}" if found["problem"] else "")
        except (OSError, ValueError) as error:
            news = f"the service does not answer: {error}"
        if news != printed:
            say(news)
        printed = news
        time.sleep(limits.poll_interval_s)
