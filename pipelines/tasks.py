"""Tasks in Ray: one alone, or a bounded number of many at a time, tried again when worker or storage is lost."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, TypeVar

import ray

from daefr.errors import UserError
from pipelines import cluster
from pipelines.errors import StepFailedError
from pipelines.storage.s3 import StorageError

Key = TypeVar("Key")
Task = TypeVar("Task")
Result = TypeVar("Result")


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Iterable[tuple[Key, Task]],
    *,
    in_flight: int | None = None,
    retries: int = 0,
    gpus: Callable[[], float] | None = None,
) -> Iterator[tuple[Key, Result]]:
    """Run a function on every task; yield each key with its result, in the order in which they are finished.

    A task is taken from `tasks` when there is room for it, and forgotten when it is done. By default there are two
    for each CPU of the cluster, which is connected to for the first of them; `gpus` is asked then for a task's share of
    a GPU. Raises `UserError` as a task raised it, and `StepFailedError` when one failed for good.
    """
    waiting = iter(tasks)
    first = next(waiting, None)
    if first is None:
        return
    cluster.connect()
    room = in_flight or 2 * max(1, int(cluster.cpus()))
    remote = ray.remote(function).options(
        max_retries=retries, retry_exceptions=[StorageError], num_gpus=gpus() if gpus else 0
    )
    flying: dict[Any, Key] = {}
    for key, task in chain([first], waiting):
        flying[remote.remote(task)] = key
        if len(flying) >= room:
            yield _next(flying)
    while flying:
        yield _next(flying)


def run_task(name: str, function: Callable[..., Result], *arguments: object) -> Result:
    """Run a function once and return its result. Raises like `run_tasks`."""
    cluster.connect()
    result: Result = _next({ray.remote(function).options(num_cpus=1).remote(*arguments): name})[1]
    return result


def _next(flying: dict[Any, Key]) -> tuple[Key, Any]:
    (ready, *_), _ = ray.wait(list(flying), num_returns=1)
    key = flying.pop(ready)
    try:
        return key, ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from None
        raise StepFailedError(f"{key}: {_one_line(error.cause)}; the same command tries again from here") from error
    except ray.exceptions.RayError as error:
        raise StepFailedError(f"{key}: {_one_line(error)}; the same command tries again from here") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
