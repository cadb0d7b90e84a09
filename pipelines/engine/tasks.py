"""Tasks in Ray: one alone, or a bounded number of many at a time, tried again when worker or storage is lost.

Tasks that share what takes long to load are run by actors, which load it once.
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
    """Run a function on every task; yield each key with its result, in the order in which they are finished.

    A task is taken from `tasks` when there is room for it, and forgotten when it is done. By default there are two
    for each CPU of the cluster, which is connected to for the first of them; `gpus` is asked then for a task's share of
    a GPU. What is in flight when `stop` is set, or when the caller leaves, is cancelled. With `reuse_workers`, a
    worker process runs task after task; without, each task has a process of its own. So has always a task with a share
    of a GPU: only the end of a process gives all of a GPU's memory back, and an idle one would hold it into the next
    step. That costs the start of a process and of CUDA per task, some ten seconds of a task of minutes. Raises
    `UserError` as a task raised it, and `StepFailedError` when one failed for good.
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
    """Wait for the first task to be finished; tell whether one is, which it may not be when `stop` is set."""
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
    """Run every task on one of some actors; yield each key with its result, in the order in which they are finished.

    `actor` returns what the tasks are given to; each actor calls it once, before its first task. There are never more
    actors than tasks, and each holds two tasks, the one that it works on and the next. An actor that is lost is
    replaced, and what it held is run again, up to `retries` times. Keys are unique. Raises like `run_tasks`.
    """
    cluster.connect()
    remote = ray.remote(_Actor).options(
        num_cpus=cpus, num_gpus=gpus, max_restarts=retries, max_task_retries=retries, max_concurrency=1
    )
    waiting, in_flight, owners = iter(tasks), dict[Any, Key](), dict[Key, Any]()

    def give(owner: Any | None) -> Any | None:
        """Give a task, if one is left, to an actor, or else to a new one; return the actor."""
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
    """What runs in an actor's process."""

    def __init__(self, make: Callable[[], Callable[[Task], Result]]) -> None:
        self._make = make
        self._work: Callable[[Any], Any] | None = None

    def run(self, task: Any) -> Any:
        # not when the actor is made: Ray would tell of an error there with all of its traceback
        if self._work is None:
            self._work = self._make()
        return self._work(task)


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
        raise StepFailedError(f"{key}: {one_line(error.cause)}; the same command resumes from here") from error
    except ray.exceptions.RayError as error:
        raise StepFailedError(f"{key}: {one_line(error)}; the same command resumes from here") from error
