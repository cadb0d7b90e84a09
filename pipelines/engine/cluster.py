"""Connects to an existing Ray cluster or starts Ray on this machine, and reserves its resources."""

import logging
import math
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import ray

from daefr.errors import UserError
from daefr.version import find_checkout
from pipelines.engine.signals import abandoned
from pipelines.storage.paths import in_ray_job

RAY_TRAIN = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # a report waits for the next check
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "180",  # importing torch takes over a minute on a busy machine
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "1800",  # otherwise ranks at different collectives wait forever
}
"""Environment variables for Ray Train, unless they are set already."""

# Ray's processes are killed with the thread that started them, so a thread of a step must not start them
_starter = ThreadPoolExecutor(1, thread_name_prefix="ray")


def joins_existing() -> bool:
    """Return whether `connect` joins an existing cluster, rather than starting one."""
    return "RAY_ADDRESS" in os.environ


def connect() -> None:
    """Connect to the cluster at RAY_ADDRESS, which Ray sets for jobs; otherwise start Ray on this machine."""
    _starter.submit(_connect).result()


def _connect() -> None:
    if ray.is_initialized():
        return
    for name, value in RAY_TRAIN.items():
        os.environ.setdefault(name, value)
    if joins_existing():
        # Ray sends a job's working directory to the workers
        ray.init(runtime_env=None if in_ray_job() else _project_on_path(), log_to_driver=False)
        return
    # Ray listens on all addresses and runs any client's code, so a token that only its own processes know is needed. By
    # default, Ray would write one to a world-readable file.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    # Ray warns that it cannot install its SIGTERM handler outside the main thread, which is intended
    logging.getLogger("ray._private.worker").setLevel(logging.ERROR)
    ray.init(
        address="local",  # otherwise Ray tries to join the last instance on this machine, even if it has ended
        runtime_env=_project_on_path(),
        object_store_memory=256 * 1024**2,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


def disconnect() -> None:
    """Disconnect, and stop Ray if this process has started it, unless abandoned threads may still use it."""
    if ray.is_initialized() and not abandoned.is_set():
        ray.shutdown()


def resources() -> dict[str, float]:
    """Return the total resources of the cluster."""
    return dict(ray.cluster_resources())


def cpus() -> float:
    """Return the total number of CPUs of the cluster."""
    return float(ray.cluster_resources().get("CPU", 0))


def idle_cpus() -> float:
    """Return the number of CPUs that this process has not reserved."""
    return cpus() - _reserved["CPU"]


def gpu_share() -> float:
    """Return the fraction of a GPU per CPU of the cluster, at most 1."""
    share = float(ray.cluster_resources().get("GPU", 0)) / max(1.0, cpus())
    return min(1.0, math.floor(share * 10_000) / 10_000)  # Ray counts GPUs in ten-thousandths


SECONDS_TO_FREE = 10
"""Resources that a stage has released become available with a delay."""

_reserved: Counter[str] = Counter()
_released = threading.Condition()


@contextmanager
def reserve(
    name: str, needed: dict[str, float], log: Callable[[str], None], unavailable_timeout_s: float = 0
) -> Iterator[None]:
    """Reserve resources of the cluster while the block runs, after waiting until they are free.

    Raises `UserError` if the cluster is too small, on an existing cluster after waiting `unavailable_timeout_s`.
    """
    _wait_for_nodes(name, needed, log, unavailable_timeout_s if joins_existing() else 0)
    total = ray.cluster_resources()

    def fits() -> bool:
        return all(_reserved[kind] + amount <= total.get(kind, 0) for kind, amount in needed.items())

    with _released:
        if not fits():
            log(f"{name}: waiting for {format_resources(needed)}")
            _released.wait_for(fits)
        _reserved.update(needed)
    try:
        _wait_for_others(name, needed, log)
        yield
    finally:
        with _released:
            _reserved.subtract(needed)
            _released.notify_all()


def format_resources(amounts: Mapping[str, float]) -> str:
    """Return amounts of resources as text, such as `4 CPU, 1 GPU`."""
    return ", ".join(f"{amount:g} {kind}" for kind, amount in amounts.items())


def free(kinds: Iterable[str]) -> dict[str, float]:
    """Return how much of these resources is free."""
    available = ray.available_resources()
    return {kind: available.get(kind, 0.0) for kind in kinds}


def _wait_for_nodes(name: str, needed: Mapping[str, float], log: Callable[[str], None], timeout_s: float) -> None:
    deadline, logged = time.monotonic() + timeout_s, False
    while lacking := {k: v for k, v in needed.items() if v > ray.cluster_resources().get(k, 0)}:
        total = format_resources({kind: ray.cluster_resources().get(kind, 0) for kind in lacking})
        if time.monotonic() >= deadline:
            raise UserError(f"compute.{name} needs {format_resources(lacking)}, but the cluster has {total}")
        if not logged:
            log(
                f"{name}: waiting up to {timeout_s:.0f} s for nodes: {format_resources(lacking)} needed, "
                f"the cluster has {total}"
            )
            logged = True
        time.sleep(1)


def _wait_for_others(name: str, needed: Mapping[str, float], log: Callable[[str], None]) -> None:
    """Wait until other jobs have released the resources, with a log line, which Ray would not write."""
    start, logged = time.monotonic(), False
    while lacking := {kind: has for kind, has in free(needed).items() if has < needed[kind]}:
        if not logged and time.monotonic() - start > SECONDS_TO_FREE:
            log(f"{name}: waiting for other jobs: {format_resources(needed)} needed, {format_resources(lacking)} free")
            logged = True
        time.sleep(0.5)


def _project_on_path() -> dict[str, dict[str, str]]:
    """Return the runtime environment of workers, in which a checkout takes precedence over an installed package."""
    paths = [str(find_checkout() or ""), os.environ.get("PYTHONPATH", "")]
    return {"env_vars": {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}}
