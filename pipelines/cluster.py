"""Connecting to Ray: the cluster whose job this is, or one of its own on this machine."""

import logging
import math
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import ray

from daefr.errors import UserError

ROOT = Path(__file__).resolve().parent.parent


def in_ray_job() -> bool:
    """Tell whether this process was submitted to a cluster as a job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


# Ray's processes are killed with the thread that started them, so that thread must not be one of a step's
_starter = ThreadPoolExecutor(1, thread_name_prefix="ray")


def connect() -> None:
    """Connect to the cluster that RAY_ADDRESS names, which a job finds set; else start Ray on this machine."""
    _starter.submit(_connect).result()


def _connect() -> None:
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # a report waits for the next check
    if "RAY_ADDRESS" in os.environ:
        # a job's code reaches the workers with its working directory
        ray.init(runtime_env=None if in_ray_job() else _project_on_path(), log_to_driver=False)
        return
    # nobody else is to talk to a cluster that ends with this process, and Ray would write a world-readable token
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
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


_taken: Counter[str] = Counter()
_freed = threading.Condition()


@contextmanager
def room(name: str, wanted: dict[str, float], say: Callable[[str], None]) -> Iterator[None]:
    """Hold resources of the cluster while the block runs, after waiting for other blocks of this process to free them.

    Raises `UserError` when the whole cluster has less than is wanted.
    """
    whole = ray.cluster_resources()
    for kind, amount in wanted.items():
        if amount > whole.get(kind, 0):
            raise UserError(f"compute.{name} wants {amount:g} {kind}, but the cluster has {whole.get(kind, 0):g}")

    def fits() -> bool:
        return all(_taken[kind] + amount <= whole[kind] for kind, amount in wanted.items())

    with _freed:
        if not fits():
            say(f"{name}: waits for {', '.join(f'{amount:g} {kind}' for kind, amount in wanted.items())}")
            _freed.wait_for(fits)
        _taken.update(wanted)
    try:
        yield
    finally:
        with _freed:
            _taken.subtract(wanted)
            _freed.notify_all()


def _project_on_path() -> dict[str, dict[str, str]]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {"env_vars": {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}}
