"""Launches the restoration service."""

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
    """The definition of a service: its model, limits and replicas. `token` is a digest."""

    restoration: RestorationSettings
    limits: ServeConfig
    compute: ServeCompute
    tracking: Tracking
    token: bytes | None

    def run(self) -> None:
        """Serve until the process is interrupted."""
        with self.started() as address:
            say(f"serving {self.restoration.model} at {address}; press Ctrl-C to stop")
            with contextlib.suppress(KeyboardInterrupt):
                signal.signal(signal.SIGTERM, signal.default_int_handler)  # sent when a Ray job is stopped
                _watch(address, self.limits)

    @contextlib.contextmanager
    def started(self) -> Iterator[str]:
        """Serve while the block runs; yields the address.

        Raises `UserError` if the model or the port is unavailable, and `StepFailedError` if no replica starts.
        """
        settings, limits = located(self.restoration), self.limits
        find_model(self.tracking, settings.model)
        if not settings.aligned:
            find_detector(settings.detector)
        own_cluster = not cluster.joins_existing()
        if own_cluster:
            _check_port(limits.host, limits.port)
            for check in ("READY", "HEALTH"):  # Serve's defaults are too short for a busy machine
                os.environ.setdefault(f"RAY_SERVE_PROXY_{check}_CHECK_TIMEOUT_S", "60")
        cluster.connect()
        # importing Serve takes seconds, which configuration errors should not wait for
        from pipelines.serve.app import ReplicaConfig  # noqa: PLC0415
        from pipelines.serve.deploy import deploy, undeploy  # noqa: PLC0415

        try:
            deploy(ReplicaConfig(settings, limits, self.compute, self.tracking, self.token))
            try:
                yield _address(limits)
            finally:
                undeploy(shutdown=own_cluster)
        finally:
            cluster.disconnect()


def _address(limits: ServeConfig) -> str:
    """Return the service's URL on this machine."""
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
        raise UserError(f"cannot listen on serve.host={host} serve.port={port}: {error.strerror}") from None


def _watch(address: str, limits: ServeConfig) -> None:
    """Print the served model and problems whenever they change."""
    token = limits.token.read_text().strip() if limits.token else ""
    health = urllib.request.Request(f"{address}health", headers={"Authorization": f"Bearer {token}"})  # noqa: S310
    printed = ""
    while True:
        try:
            with urllib.request.urlopen(health, timeout=30) as response:  # noqa: S310  # our own address
                found = json.load(response)
            line = f"serving {found['model']}" + (f"; problem: {found['problem']}" if found["problem"] else "")
        except (OSError, ValueError) as error:
            line = f"the service does not answer: {error}"
        if line != printed:
            say(line)
        printed = line
        time.sleep(limits.poll_interval_s)
