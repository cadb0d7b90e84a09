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


def in_ray_job() -> bool:
    """Tell whether this process was submitted to a cluster as a job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


RAY_TRAIN = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # a report waits for the next check
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "180",  # on a busy machine a minute is too short to import torch
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "1800",  # without, ranks that have parted wait for each other for ever
}
"""What suits our trainings, unless the user has set another value."""

# Ray's processes are killed with the thread that started them, so that thread must not be one of a step's
_starter = ThreadPoolExecutor(1, thread_name_prefix="ray")


def joins() -> bool:
    """Tell whether `connect` joins a cluster that is there, rather than start one."""
    return "RAY_ADDRESS" in os.environ


def connect() -> None:
    """Connect to the cluster that RAY_ADDRESS names, which a job finds set; else start Ray on this machine."""
    _starter.submit(_connect).result()


def _connect() -> None:
    if ray.is_initialized():
        return
    for name, value in RAY_TRAIN.items():
        os.environ.setdefault(name, value)
    if joins():
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
    """Leave the cluster, and end it if it is this process's own."""
    if ray.is_initialized():
        ray.shutdown()


def resources() -> dict[str, float]:
    """Return what the whole cluster has, such as CPU and GPU."""
    return dict(ray.cluster_resources())


def cpus() -> float:
    """CPUs of the whole cluster."""
    return float(ray.cluster_resources().get("CPU", 0))


def idle_cpus() -> float:
    """CPUs of the whole cluster that no block of this process holds by `room`."""
    return cpus() - _taken["CPU"]


def gpu_share() -> float:
    """The part of a GPU that a task of one CPU can have while all CPUs are busy with such; 0 without GPUs."""
    share = float(ray.cluster_resources().get("GPU", 0)) / max(1.0, cpus())
    return min(1.0, math.floor(share * 10_000) / 10_000)  # Ray counts GPUs in ten-thousandths


SECONDS_TO_FREE = 10

_taken: Counter[str] = Counter()
_freed = threading.Condition()


@contextmanager
def room(name: str, wanted: dict[str, float], say: Callable[[str], None], patience: float = 0) -> Iterator[None]:
    """Hold resources of the cluster while the block runs, after waiting until nobody else holds them.

    Raises `UserError` when the whole cluster has less than is wanted: on a cluster that others started, where nodes
    come and go, after `patience` seconds.
    """
    _wait_for_nodes(name, wanted, say, patience if "RAY_ADDRESS" in os.environ else 0)
    whole = ray.cluster_resources()

    def fits() -> bool:
        return all(_taken[kind] + amount <= whole.get(kind, 0) for kind, amount in wanted.items())

    with _freed:
        if not fits():
            say(f"{name}: waits for {listed(wanted)}")
            _freed.wait_for(fits)
        _taken.update(wanted)
    try:
        _wait_for_others(name, wanted, say)
        yield
    finally:
        with _freed:
            _taken.subtract(wanted)
            _freed.notify_all()


def listed(amounts: Mapping[str, float]) -> str:
    """Return resources in words."""
    return ", ".join(f"{amount:g} {kind}" for kind, amount in amounts.items())


def free(kinds: Iterable[str]) -> dict[str, float]:
    """Return what of these resources nobody holds now."""
    available = ray.available_resources()
    return {kind: available.get(kind, 0.0) for kind in kinds}


def _wait_for_nodes(name: str, wanted: Mapping[str, float], say: Callable[[str], None], patience: float) -> None:
    deadline, told = time.monotonic() + patience, False
    while lacking := {k: v for k, v in wanted.items() if v > ray.cluster_resources().get(k, 0)}:
        has = listed({kind: ray.cluster_resources().get(kind, 0) for kind in lacking})
        if time.monotonic() >= deadline:
            raise UserError(f"compute.{name} wants {listed(lacking)}, but the cluster has {has}")
        if not told:
            say(f"{name}: waits up to {patience:.0f} s for nodes: it wants {listed(lacking)}, the cluster has {has}")
            told = True
        time.sleep(1)


def _wait_for_others(name: str, wanted: Mapping[str, float], say: Callable[[str], None]) -> None:
    """Wait until no other job holds what is wanted; Ray would wait as well, but silently."""
    start, told = time.monotonic(), False
    while lacking := {kind: has for kind, has in free(wanted).items() if has < wanted[kind]}:
        # a moment after a stage has ended, what it held is not free yet
        if not told and time.monotonic() - start > SECONDS_TO_FREE:
            say(f"{name}: waits for {listed(wanted)}, which others hold: {listed(lacking)} free")
            told = True
        time.sleep(0.5)


def _project_on_path() -> dict[str, dict[str, str]]:
    """Return the environment of the workers: a checkout's code comes before a package that is installed as well."""
    checkout = find_checkout()
    paths = [str(checkout or ""), os.environ.get("PYTHONPATH", "")]
    return {"env_vars": {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}}
