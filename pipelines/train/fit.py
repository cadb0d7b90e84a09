"""Running a training in Ray Train, from the driver."""

import time
from contextlib import suppress
from math import ceil
from typing import Any

import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.placement_group import PlacementGroup

from daefr.errors import one_line
from daefr.memory import KEEP_FREED_MEMORY
from daefr.training.rank_vote import nccl_timeout_seconds
from pipelines.engine import cluster
from pipelines.engine import signals as termination
from pipelines.engine.progress import Reading, bar, follow, say
from pipelines.train.failures import CONTROLLER_LOST, RAY_ERRORS, GiveUpEarly, translate
from pipelines.train.job import Job
from pipelines.train.settings import StageCompute
from pipelines.train.worker import train_worker

REPORTS = "ray"


def fit(job: Job) -> dict[str, float]:
    """Train a stage, going on from its last checkpoint; return the last validation.

    Raises `UserError` for the user's mistake, and `StepFailedError` with the cause in one line.
    """
    watch = Watch(job)
    try:
        with (
            termination.training(),
            bar(job.stage, job.training.last_step, "steps") as shown,
            follow(job.board, shown, watch, stop_when=termination.requested),
        ):
            for left in reversed(range(job.compute.max_failures + 1)):
                try:
                    measured: dict[str, float] = _trainer(job).fit().return_value
                    break
                except CONTROLLER_LOST as error:
                    if not left or termination.requested.is_set():
                        raise
                    watch.release()
                    job.board.lose.remote(f"{job.stage}: {one_line(error)}: it goes on from its last checkpoint")
    except RAY_ERRORS as error:
        if termination.requested.is_set():
            raise termination.TerminatedError from error
        raise translate(job.stage, error) from error
    return measured


def _trainer(job: Job) -> TorchTrainer:
    compute = job.compute
    place, _, name = job.checkpoints.place.rpartition("/")
    with suppress(OSError):  # a store that fails is told when Ray Train opens it
        job.checkpoints.forget_list()
    return TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend=_backend(compute), timeout_s=collective_timeout(compute)),
        scaling_config=ray.train.ScalingConfig(
            num_workers=compute.workers,
            use_gpu=compute.gpu,
            resources_per_worker=per_worker(compute),
            placement_strategy=compute.placement,
        ),
        run_config=ray.train.RunConfig(
            storage_path=place,
            name=name,
            failure_config=ray.train.FailureConfig(max_failures=compute.max_failures),
            callbacks=[GiveUpEarly(job.stage, job.board)],
            worker_runtime_env=_environment(job),
        ),
    )


def _backend(compute: StageCompute) -> str:
    return compute.backend or ("nccl" if compute.gpu else "gloo")


def collective_timeout(compute: StageCompute) -> int:
    """Return the seconds after which a collective of the process group fails."""
    return ceil(nccl_timeout_seconds(compute.timeout)) if _backend(compute) == "nccl" else compute.timeout


def _environment(job: Job) -> dict[str, Any]:
    speed = job.training.speed.on("cuda" if job.compute.gpu else "cpu")
    return {"env_vars": KEEP_FREED_MEMORY} if speed.keep_memory else {}


class Watch:
    """Watches a training from the driver: says every minute that no worker runs, as Ray Train waits in silence."""

    def __init__(self, job: Job) -> None:
        """Begin with nothing told."""
        self._job, self._told, self._worked = job, 0, time.monotonic()
        self._held: PlacementGroup | None = None

    def __call__(self, reading: Reading) -> None:
        """Take note of what stands on the board."""
        self._held = reading.held or self._held
        if reading.running:
            self._worked = time.monotonic()
        minutes = int((time.monotonic() - self._worked) // 60)
        if minutes > self._told:
            wanted = resources(self._job.compute)
            has = cluster.listed(cluster.free(wanted))
            say(f"{self._job.stage}: no worker for {minutes} min; it needs {cluster.listed(wanted)}, free are {has}")
        self._told = minutes

    def release(self) -> None:
        """Give back what lost workers held: where Ray Train's own processes died with them, nothing else does."""
        if self._held is not None:
            ray.util.remove_placement_group(self._held)
        self._held = None


def per_worker(compute: StageCompute) -> dict[str, float]:
    """Return what one worker takes of a cluster."""
    return {"CPU": compute.cpus} | ({"GPU": 1.0} if compute.gpu else {})


def resources(compute: StageCompute) -> dict[str, float]:
    """Return what a stage takes of a cluster at least."""
    return {kind: amount * compute.fewest for kind, amount in per_worker(compute).items()}
