"""Runs tasks with Ray, with a bounded number in flight and with retries after lost workers or storage errors.

Tasks that share something slow to load are run on actors.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, TypeVar

import ray

from daefr.errors import UserError, one_line
from pipelines.engine import cluster
from pipelines.errors import StepFailedError
from pipelines.storage.s3 import StorageError

SECONDS_BETWEEN_LOOKS = 1.0
Key = TypeVar("Key")
Task = TypeVar("Task")
Result = TypeVar("Result")


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Iterable[tuple[Key, Task]],
    *,
    max_in_flight: int | None = None,
    retries: int = 0,
    cpus: float = 1,
    gpus: Callable[[], float] | None = None,
    stop: threading.Event | None = None,
    reuse_workers: bool = True,
) -> Iterator[tuple[Key, Result]]:
    """Run a function on every task; yield each key with its result, in the order of completion.

    Args:
        function: Runs on a task, in a worker.
        tasks: Keys and tasks, consumed as workers become available; the cluster is connected to for the first one.
        max_in_flight: By default, two per CPU of the cluster.
        retries: Number of retries per task.
        cpus: CPUs per task.
        gpus: Called once the cluster is connected to, returns the fraction of a GPU per task.
        stop: Cancels the tasks in flight when set, as does closing the iterator.
        reuse_workers: Whether a worker process runs several tasks. With GPUs, each task has its own process, since only
            the end of a process frees all of its GPU memory, which the next step needs. This takes about ten seconds
            per task.

    Raises:
        UserError: As raised by a task.
        StepFailedError: If a task failed after all retries.

    """
    waiting = iter(tasks)
    first = next(waiting, None)
    if first is None:
        return
    cluster.connect()
    limit = max_in_flight or 2 * max(1, int(cluster.cpus()))
    gpu_share = gpus() if gpus else 0
    remote = ray.remote(
        max_calls=0 if reuse_workers and not gpu_share else 1,
        max_retries=retries,
        retry_exceptions=[StorageError],
        num_cpus=cpus,
        num_gpus=gpu_share,
    )(function)
    stop = stop or threading.Event()
    in_flight: dict[Any, Key] = {}
    try:
        for key, task in chain([first], waiting):
            if stop.is_set():
                return
            in_flight[remote.remote(task)] = key
            if len(in_flight) >= limit and _wait(in_flight, stop):
                yield _next(in_flight)
        while in_flight and _wait(in_flight, stop):
            yield _next(in_flight)
    finally:
        for reference in in_flight:
            ray.cancel(reference, force=True)


def _wait(in_flight: Mapping[Any, Key], stop: threading.Event) -> bool:
    """Wait until a task is finished; return False if `stop` is set before."""
    while not stop.is_set():
        if ray.wait(list(in_flight), num_returns=1, timeout=SECONDS_BETWEEN_LOOKS)[0]:
            return True
    return False


def run_on_actors(
    actor: Callable[[], Callable[[Task], Result]],
    tasks: Iterable[tuple[Key, Task]],
    *,
    actors: int,
    cpus: float = 1,
    gpus: float = 0,
    retries: int = 0,
) -> Iterator[tuple[Key, Result]]:
    """Run tasks on several actors; yield each key with its result, in the order of completion.

    Each actor calls `actor` once, and then the function that it returned on its tasks. An actor holds two tasks at a
    time, so that it does not wait for the next. A lost actor is replaced and its tasks are repeated, up to `retries`
    times. Keys must be unique. Raises like `run_tasks`.
    """
    cluster.connect()
    remote = ray.remote(_Actor).options(
        num_cpus=cpus, num_gpus=gpus, max_restarts=retries, max_task_retries=retries, max_concurrency=1
    )
    waiting, in_flight, owners = iter(tasks), dict[Any, Key](), dict[Key, Any]()

    def give(owner: Any | None) -> Any | None:
        """Give the next task, if any, to an actor, or to a new one; return the actor."""
        found = next(waiting, None)
        if found is None:
            return None
        key, task = found
        owner = owner or remote.remote(actor)
        run = owner.run.options(retry_exceptions=[StorageError])
        in_flight[run.remote(task)], owners[key] = key, owner
        return owner

    started = [owner for owner in [give(None) for _ in range(actors)] if owner is not None]
    for owner in started:
        give(owner)
    try:
        while in_flight:
            key, result = _next(in_flight)
            give(owners.pop(key))
            yield key, result
    finally:
        for owner in started:
            ray.kill(owner)


class _Actor:
    def __init__(self, make: Callable[[], Callable[[Task], Result]]) -> None:
        self._make = make
        self._function: Callable[[Any], Any] | None = None

    def run(self, task: Any) -> Any:
        # not in the constructor, for whose errors Ray reports the complete traceback
        if self._function is None:
            self._function = self._make()
        return self._function(task)


def run_task(name: str, function: Callable[..., Result], *arguments: object) -> Result:
    """Run a function once and return its result. Raises like `run_tasks`."""
    cluster.connect()
    result: Result = _next({ray.remote(function).options(num_cpus=1).remote(*arguments): name})[1]
    return result


def _next(in_flight: dict[Any, Key]) -> tuple[Key, Any]:
    (ready, *_), _ = ray.wait(list(in_flight), num_returns=1)
    key = in_flight.pop(ready)
    try:
        return key, ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from None
        raise StepFailedError(f"{key}: {one_line(error.cause)}; run the same command to resume") from error
    except ray.exceptions.RayError as error:
        raise StepFailedError(f"{key}: {one_line(error)}; run the same command to resume") from error
