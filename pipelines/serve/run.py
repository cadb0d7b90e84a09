"""Serve a restoration model: a page, and `POST /restore`. Follows the model's alias without a restart."""

import argparse
import contextlib
import ipaddress
import json
import os
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator

from daefr.errors import UserError
from daefr.faces.detector import find_detector
from pipelines.config import RunConfig
from pipelines.engine import cluster
from pipelines.engine.command import Command
from pipelines.engine.progress import say
from pipelines.engine.run import open_tracking, open_workdir
from pipelines.serve.settings import ServeConfig
from pipelines.serve.token import token_digest
from pipelines.tracking.models import find_model, located


def run_service(config: RunConfig) -> list[str]:
    """Serve until the process is interrupted."""
    with started(config) as address:
        say(f"serving {config.restore.model} at {address}; Ctrl-C ends it")
        with contextlib.suppress(KeyboardInterrupt):
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # which ends a job
            _watch(address, config.serve)
    return ["stopped"]


@contextlib.contextmanager
def started(config: RunConfig) -> Iterator[str]:
    """Serve while the block runs; gives the address.

    Raises `UserError` for a model, token or port that is not to be had, and `StepFailedError` when no replica starts.
    """
    limits, compute = config.serve, config.compute.serve
    token = token_digest(limits.token, limits.host)
    tracking = open_tracking(config, open_workdir(config.workdir))
    settings = located(config.restore)
    find_model(tracking, settings.model)
    if not settings.aligned:
        find_detector(settings.detector)
    own = not cluster.joins()
    if own:
        _check_port(limits.host, limits.port)
        for check in ("READY", "HEALTH"):  # on a busy machine, what Serve takes for dead has only not started yet
            os.environ.setdefault(f"RAY_SERVE_PROXY_{check}_CHECK_TIMEOUT_S", "60")
    cluster.connect()
    # Serve takes seconds to import, which a mistake in the configuration should not have to wait for
    from pipelines.serve.app import Setup  # noqa: PLC0415
    from pipelines.serve.deploy import deploy, withdraw  # noqa: PLC0415

    try:
        deploy(Setup(settings, limits, compute, tracking, token))
        try:
            yield _address(limits)
        finally:
            withdraw(everything=own)
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
    """Tell which model is in service when that changes, and when something is wrong."""
    token = limits.token.expanduser().read_text().strip() if limits.token else ""
    health = urllib.request.Request(f"{address}health", headers={"Authorization": f"Bearer {token}"})  # noqa: S310
    told = ""
    while True:
        try:
            with urllib.request.urlopen(health, timeout=30) as answer:  # noqa: S310  # our own address
                found = json.load(answer)
            news = f"in service: {found['model']}" + (f", although {found['problem']}" if found["problem"] else "")
        except (OSError, ValueError) as error:
            news = f"the service does not answer: {error}"
        if news != told:
            say(news)
        told = news
        time.sleep(limits.poll_seconds)


class _Serve(Command):
    name = "serve"
    shortcuts = ("restore.model", "serve.host", "serve.port")

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--model", help="stands for restore.model=MODEL")
        parser.add_argument("--host", help="stands for serve.host=HOST")
        parser.add_argument("--port", type=int, help="stands for serve.port=PORT")

    def run(self, config: RunConfig, options: argparse.Namespace) -> list[str]:  # noqa: ARG002
        return run_service(config)


COMMAND = _Serve()
