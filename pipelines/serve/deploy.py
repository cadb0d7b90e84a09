"""Bringing the service into Ray Serve, and out of it."""

import contextlib
import logging
import re

from ray import serve
from ray.exceptions import RayError
from ray.serve.context import _get_global_client

from daefr.errors import UserError, one_line
from pipelines.errors import StepFailedError
from pipelines.serve.app import Replica, ReplicaConfig
from pipelines.serve.token import is_loopback

APPLICATION = "daefr"
ROOM = 64
"""Requests beside those that are restored, such as for the page, which a replica takes at the same time."""
TRIES = 2

_NAMES_AN_ERROR = re.compile(r"[\w.]+Error: ")


def deploy(config: ReplicaConfig) -> None:
    """Start the replicas, and wait until they answer.

    Raises `UserError` where Serve listens at another address already, and `StepFailedError` when no replica starts.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    limits, compute = config.serve, config.compute
    try:
        serve.start(
            proxy_location="HeadOnly" if is_loopback(limits.host) else "EveryNode",
            http_options={"host": limits.host, "port": limits.port},
        )
    except RayError as error:
        raise StepFailedError(f"Ray Serve does not start: {one_line(error)}") from error
    listens = _get_global_client().http_config
    if (listens.host, listens.port) != (limits.host, limits.port):
        # Serve has one address, and whoever started it may have had other ideas of who is to reach it
        raise UserError(
            f"this cluster's Ray Serve listens at {listens.host}:{listens.port} already, not at "
            f"serve.host={limits.host} serve.port={limits.port}: give these, or shut it down with `serve shutdown`"
        )
    service = serve.deployment(Replica).options(
        name="restoration",
        num_replicas=compute.num_replicas,
        max_ongoing_requests=limits.max_queued_requests + ROOM,
        max_constructor_retry_count=TRIES,
        ray_actor_options={"num_cpus": compute.cpus_per_replica, "num_gpus": int(compute.use_gpu)},
    )
    try:
        serve.run(service.bind(config), name=APPLICATION, route_prefix="/")
    except RuntimeError as error:
        failed = serve.status().applications[APPLICATION].deployments
        serve.delete(APPLICATION)
        told = "\n".join([str(error), *(deployment.message for deployment in failed.values())])
        raise StepFailedError(f"the service does not start: {_cause(told)}") from error


def withdraw(everything: bool) -> None:
    """End the service; with `everything`, Serve as well, which is then nobody else's."""
    with contextlib.suppress(Exception):  # it is on its way out, and what it is on may be gone
        if everything:
            serve.shutdown()
        else:
            serve.delete(APPLICATION)


def _cause(told: str) -> str:
    """Return the last line that names an exception: the cause, of all the lines that a replica's failure takes."""
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    named = [line for line in lines if _NAMES_AN_ERROR.match(line)]
    return (named or lines or [told])[-1][:300]
