"""Connecting to Ray: the cluster whose job this is, or one of its own on this machine."""

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
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "180",  # on a busy machine a minute is too short to import torch
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "1800",  # without, ranks that have parted wait for each other for ever
}
"""What suits our trainings, unless the user has set another value."""

# Ray's processes are killed with the thread that started them, so that thread must not be one of a step's
_starter = ThreadPoolExecutor(1, thread_name_prefix="ray")


def joins_existing() -> bool:
    """Tell whether `connect` joins an existing cluster rather than start one."""
    return "RAY_ADDRESS" in os.environ


def connect() -> None:
    """Connect to the cluster that RAY_ADDRESS names, which a job finds set; else start Ray on this machine."""
    _starter.submit(_connect).result()


def _connect() -> None:
    if ray.is_initialized():
        return
    for name, value in RAY_TRAIN.items():
        os.environ.setdefault(name, value)
    if joins_existing():
        # a job's code reaches the workers with its working directory
        ray.init(runtime_env=None if in_ray_job() else _project_on_path(), log_to_driver=False)
        return
    # Ray listens on all of this machine's addresses, and whoever talks to it can run code: it wants a token, which only
    # its own processes know. Without one here, Ray would write a world-readable one.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    # Ray's SIGTERM handler needs the main thread; without it, SIGTERM ends this process as it ends any other
    logging.getLogger("ray._private.worker").setLevel(logging.ERROR)
    ray.init(
        address="local",  # else Ray joins what was last started on this machine, even when that is long dead
        runtime_env=_project_on_path(),
        object_store_memory=256 * 1024**2,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


def disconnect() -> None:
    """Leave the cluster, and end it if it is this process's own; abandoned threads may use it until that ends."""
    if ray.is_initialized() and not abandoned.is_set():
        ray.shutdown()


def resources() -> dict[str, float]:
    """Return what the whole cluster has, such as CPU and GPU."""
    return dict(ray.cluster_resources())


def cpus() -> float:
    """CPUs of the whole cluster."""
    return float(ray.cluster_resources().get("CPU", 0))


def idle_cpus() -> float:
    """CPUs of the whole cluster that no block of this process holds by `reserve`."""
    return cpus() - _reserved["CPU"]


def gpu_share() -> float:
    """The part of a GPU that a task of one CPU can have while all CPUs are busy with such; 0 without GPUs."""
    share = float(ray.cluster_resources().get("GPU", 0)) / max(1.0, cpus())
    return min(1.0, math.floor(share * 10_000) / 10_000)  # Ray counts GPUs in ten-thousandths


SECONDS_TO_FREE = 10

_reserved: Counter[str] = Counter()
_released = threading.Condition()


@contextmanager
def reserve(
    name: str, needed: dict[str, float], log: Callable[[str], None], unavailable_timeout_s: float = 0
) -> Iterator[None]:
    """Hold resources of the cluster while the block runs, after waiting until nobody else holds them.

    Raises `UserError` when the whole cluster has less than is needed: on an existing cluster, whose nodes come and go,
    after waiting for `unavailable_timeout_s`.
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
    """Return how much of these resources nobody holds now."""
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
    """Wait until no other job holds what is needed; Ray would wait as well, but silently."""
    start, logged = time.monotonic(), False
    while lacking := {kind: has for kind, has in free(needed).items() if has < needed[kind]}:
        # what a stage held is not free until a moment after its end
        if not logged and time.monotonic() - start > SECONDS_TO_FREE:
            log(f"{name}: waiting for {format_resources(needed)}, which others hold: {format_resources(lacking)} free")
            logged = True
        time.sleep(0.5)


def _project_on_path() -> dict[str, dict[str, str]]:
    """Return the environment of the workers: a checkout's code comes before a package that is installed as well."""
    paths = [str(find_checkout() or ""), os.environ.get("PYTHONPATH", "")]
    return {"env_vars": {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}}
