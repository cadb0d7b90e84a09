"""Ray Data, made to stream the groups of a ledger through a pool of workers that grows with the work."""

import logging
import pickle
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import ray.data
from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines import cluster
from pipelines.config import RestoreCompute
from pipelines.restoring.ledger import Ledger, Outcome
from pipelines.restoring.worker import Job, Restoring, shard_name
from pipelines.storage.results import Written, folder_of

RETRIES = 2
"""How often a group is given to another worker when its own dies: an image can be what kills them."""


class _Groups(Datasource):  # type: ignore[misc]  # Ray has no types
    """The unfinished groups of a ledger, read one after the other, as there is room for them."""

    def __init__(self, ledger: Path, size: int, written: Path) -> None:
        super().__init__()
        self._ledger, self._size, self._written = ledger, size, written

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:  # noqa: ARG002  # Ray's signature
        about = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(partial(_read, self._ledger, self._size, self._written), about)]


def _read(ledger: Path, size: int, written: Path) -> Iterator[pyarrow.Table]:
    record = Written(written)
    for group in Ledger(ledger).groups(size):
        known = record.of_all([shard_name(group), *(given.result for given in group)])
        yield pyarrow.table({"group": [pickle.dumps(group)], "known": [pickle.dumps(known)]})


def restore_groups(ledger: Path, size: int, job: Job) -> Iterator[list[Outcome]]:
    """Have the unfinished groups restored; yield what became of each, in the order in which they are finished.

    A group that is lost with its workers yields nothing. Raises what a worker raised.
    """
    _set_up()
    compute = job.compute
    # the ledger is a file of this machine
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    with warnings.catch_warnings(action="ignore"):  # of arguments that are to get names of their own, and have none yet
        groups = ray.data.read_datasource(
            _Groups(ledger, size, folder_of(job.workdir, job.target)),
            override_num_blocks=1,
            num_cpus=0,
            scheduling_strategy=here,
        )
        restored = groups.map(
            Restoring,
            fn_constructor_args=(job,),
            compute=ActorPoolStrategy(
                min_size=compute.min_workers,
                max_size=max(compute.min_workers, compute.max_workers or _room(compute)),
                # where one image is to show what it does to its worker, no other waits there
                max_tasks_in_flight_per_actor=1 if size == 1 else 2,
            ),
            num_cpus=compute.cpus,
            num_gpus=int(compute.gpu),
            max_task_retries=RETRIES,
        )
    for block in restored.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in block["outcomes"].to_pylist():
            told: list[Outcome] | Exception = pickle.loads(row)  # noqa: S301  # our own workers wrote it
            if isinstance(told, Exception):
                raise told
            yield told


def _set_up() -> None:
    context = DataContext.get_current()
    context.target_max_block_size = 1  # each group a block of its own, to be worked on as soon as it is read
    context.max_errored_blocks = -1  # what is lost is found missing in the ledger
    # the job has a progress of its own, and tells what failed
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def _room(compute: RestoreCompute) -> int:
    """Return how many workers the cluster has room for."""
    whole = ray.cluster_resources()
    rooms = [cluster.cpus() / compute.cpus, *([whole.get("GPU", 0)] if compute.gpu else [])]
    return max(1, int(min(rooms)))
