"""Deploys the service to Ray Serve, and deletes it."""

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
EXTRA_REQUESTS = 64
"""Concurrent requests per replica other than restorations, such as for the page."""
MAX_CONSTRUCTOR_ATTEMPTS = 2

_EXCEPTION = re.compile(r"[\w.]+Error: ")


def deploy(config: ReplicaConfig) -> None:
    """Start the replicas, and wait until they answer.

    Raises `UserError` if Serve listens on another address already, and `StepFailedError` if no replica starts.
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
    actual = _get_global_client().http_config
    if (actual.host, actual.port) != (limits.host, limits.port):
        # Serve has one address per cluster, and ignores another one
        raise UserError(
            f"the cluster's Ray Serve listens on {actual.host}:{actual.port}, not on serve.host={limits.host} "
            f"serve.port={limits.port}; change these settings, or stop it with `serve shutdown`"
        )
    service = serve.deployment(Replica).options(
        name="restoration",
        num_replicas=compute.num_replicas,
        max_ongoing_requests=limits.max_queued_requests + EXTRA_REQUESTS,
        max_constructor_retry_count=MAX_CONSTRUCTOR_ATTEMPTS,
        ray_actor_options={"num_cpus": compute.cpus_per_replica, "num_gpus": int(compute.use_gpu)},
    )
    try:
        serve.run(service.bind(config), name=APPLICATION, route_prefix="/")
    except RuntimeError as error:
        failed = serve.status().applications[APPLICATION].deployments
        serve.delete(APPLICATION)
        message = "\n".join([str(error), *(deployment.message for deployment in failed.values())])
        raise StepFailedError(f"the service does not start: {_cause(message)}") from error


def undeploy(*, shutdown: bool) -> None:
    """Delete the service; with `shutdown`, also stop Serve."""
    with contextlib.suppress(Exception):  # the cluster may be lost already
        if shutdown:
            serve.shutdown()
        else:
            serve.delete(APPLICATION)


def _cause(message: str) -> str:
    """Return the last line of a replica's traceback that names an exception."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    exceptions = [line for line in lines if _EXCEPTION.match(line)]
    return (exceptions or lines or [message])[-1][:300]
