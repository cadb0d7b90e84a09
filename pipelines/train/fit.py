"""Runs a training with Ray Train, in the driver."""

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
from pipelines.engine import cluster, signals
from pipelines.engine.progress import ProgressSnapshot, bar, follow, say
from pipelines.storage.address import to_uri
from pipelines.train.failures import CONTROLLER_LOST, RAY_ERRORS, FailFastCallback, translate
from pipelines.train.job import TrainingJob
from pipelines.train.settings import StageCompute
from pipelines.train.worker import train_worker


def fit(job: TrainingJob) -> dict[str, float]:
    """Train a stage, resuming from its last checkpoint; return the last validation metrics.

    Raises `UserError`, or `StepFailedError` with the cause in one line.
    """
    monitor = StallMonitor(job)
    try:
        with (
            signals.training(),
            bar(job.stage, job.training.last_step, "steps") as progress_bar,
            follow(job.progress, progress_bar, monitor, stop_when=signals.requested),
        ):
            for retries_left in reversed(range(job.compute.max_failures + 1)):
                try:
                    metrics: dict[str, float] = _fit(_trainer(job)).return_value
                    break
                except CONTROLLER_LOST as error:
                    if not retries_left or signals.requested.is_set():
                        raise
                    monitor.release()
                    job.progress.mark_stopped.remote(
                        f"{job.stage}: {one_line(error)}: resuming from the last checkpoint"
                    )
    except RAY_ERRORS as error:
        if signals.requested.is_set():
            raise signals.stop_error() from error
        raise translate(job.stage, error) from error
    return metrics


def _fit(trainer: TorchTrainer) -> ray.train.Result:
    """Fit on another thread: on the main thread, Ray would handle SIGINT by aborting the training."""
    return signals.run_in_threads([trainer.fit])[0]


def _trainer(job: TrainingJob) -> TorchTrainer:
    compute = job.compute
    parent, _, name = job.checkpoints.location.rpartition("/")
    with suppress(OSError):  # Ray Train reports storage failures
        job.checkpoints.forget_ray_snapshot()
    return TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend=_backend(compute), timeout_s=collective_timeout(compute)),
        scaling_config=ray.train.ScalingConfig(
            num_workers=compute.workers,
            use_gpu=compute.use_gpu,
            resources_per_worker=per_worker(compute),
            placement_strategy=compute.placement_strategy,
        ),
        run_config=ray.train.RunConfig(
            storage_path=to_uri(parent),
            name=name,
            failure_config=ray.train.FailureConfig(max_failures=compute.max_failures),
            callbacks=[FailFastCallback(job.stage, job.progress)],
            worker_runtime_env=_environment(job),
        ),
    )


def _backend(compute: StageCompute) -> str:
    return compute.backend or ("nccl" if compute.use_gpu else "gloo")


def collective_timeout(compute: StageCompute) -> int:
    """Return the seconds after which a collective of the process group fails."""
    return (
        ceil(nccl_timeout_seconds(compute.collective_timeout_s))
        if _backend(compute) == "nccl"
        else compute.collective_timeout_s
    )


def _environment(job: TrainingJob) -> dict[str, Any]:
    speed = job.training.speed.on("cuda" if job.compute.use_gpu else "cpu")
    return {"env_vars": KEEP_FREED_MEMORY} if speed.retain_freed_memory else {}


class StallMonitor:
    """Logs every minute that no worker of a training runs, because Ray Train waits silently."""

    def __init__(self, job: TrainingJob) -> None:
        """Begin with nothing logged."""
        self._job, self._logged_min, self._last_seen = job, 0, time.monotonic()
        self._placement: PlacementGroup | None = None

    def __call__(self, snapshot: ProgressSnapshot) -> None:
        """Update with the training's state."""
        self._placement = snapshot.placement or self._placement
        if snapshot.is_running:
            self._last_seen = time.monotonic()
        minutes = int((time.monotonic() - self._last_seen) // 60)
        if minutes > self._logged_min:
            needed = resources(self._job.compute)
            free = cluster.format_resources(cluster.free(needed))
            say(
                f"{self._job.stage}: no worker for {minutes} min: {cluster.format_resources(needed)} needed, "
                f"{free} free"
            )
        self._logged_min = minutes

    def release(self) -> None:
        """Remove the placement group of lost workers, which Ray Train's controller cannot do if it has died."""
        if self._placement is not None:
            ray.util.remove_placement_group(self._placement)
        self._placement = None


def per_worker(compute: StageCompute) -> dict[str, float]:
    """Return the resources of one worker."""
    return {"CPU": compute.cpus_per_worker} | ({"GPU": 1.0} if compute.use_gpu else {})


def resources(compute: StageCompute) -> dict[str, float]:
    """Return the minimum resources of a stage."""
    return {kind: amount * compute.min_workers for kind, amount in per_worker(compute).items()}
