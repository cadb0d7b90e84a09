"""The training function of each worker."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.train.torch
import torch
from ray.train.collective import broadcast_from_rank_zero

from daefr.checkpoint import Checkpoint, load_checkpoint
from daefr.compiler import missing_compiler
from daefr.errors import UserError
from daefr.released import open_initial
from daefr.stages import build_stage, init_from_checkpoint, init_from_upstream
from daefr.training.loop import train
from pipelines.tracking import registry
from pipelines.tracking.registry import Version
from pipelines.train.checkpoints import step_of
from pipelines.train.compiler import missing_compiler_message
from pipelines.train.job import TrainingJob
from pipelines.train.reporter import RayReporter
from pipelines.train.startup import Startup


def train_worker(settings: dict[str, Any]) -> dict[str, float]:
    """Train on one rank, resuming from the newest undamaged checkpoint, and return the last validation metrics."""
    job: TrainingJob = settings["job"]
    startup = Startup(ray.get(job.progress.mark_started.remote(ray.util.get_current_placement_group())))
    startup.finish_phase("workers")
    _check_compiler(job)
    torch.set_num_threads(max(1, int(job.compute.cpus_per_worker)))
    stage = build_stage(job.stage, job.network, job.training, job.seed)
    startup.finish_phase("building")
    with tempfile.TemporaryDirectory() as scratch, RayReporter(job, startup) as reporter, _latest(job) as resume:
        if resume is not None:
            reporter.resume(resume.path)
        elif job.initial_checkpoint is not None:
            init_from_checkpoint(stage, _fetch(job, job.initial_checkpoint, scratch))
        elif job.upstream:
            init_from_upstream(stage, {name: _fetch(job, version, scratch) for name, version in job.upstream.items()})
        startup.finish_phase("loading")
        return train(
            stage,
            job.training,
            job.dataset,
            reporter,
            seed=job.seed,
            device=ray.train.torch.get_device(),
            from_scratch=job.initial_checkpoint is None and not job.upstream,
            resume=resume,
            dataloader_workers=job.compute.dataloader_workers,
            refresh=job.refresh,
            check_digests=job.compute.verify_digests,
            fetch=job.fetch,
            timeout_seconds=job.compute.collective_timeout_s,
        )


def _check_compiler(job: TrainingJob) -> None:
    device = ray.train.torch.get_device()
    lacks = missing_compiler(device.type) if job.training.speed.on(device.type).compile else None
    if lacks is not None:
        raise UserError(missing_compiler_message(job.stage, ray.util.get_node_ip_address(), lacks))


@contextmanager
def _latest(job: TrainingJob) -> Iterator[Checkpoint | None]:
    """Yield the checkpoint to resume from, the same on every rank: the newest undamaged one on rank 0."""
    if ray.train.get_context().get_world_rank() == 0:

        def log(line: str) -> None:
            job.progress.log.remote(f"{job.stage}: {line}")

        with job.checkpoints.newest(log, job.training.last_step) as found:
            broadcast_from_rank_zero(found and found[0])
            if found is not None:
                log(f"resuming after step {step_of(found[0])}")
            yield found and found[1]
        return
    name = broadcast_from_rank_zero(None)
    if name is None:
        yield None
        return
    with job.checkpoints.open(name) as checkpoint:
        yield checkpoint


def _fetch(job: TrainingJob, version: Version | Path, scratch: str) -> Checkpoint:
    if isinstance(version, Path):
        return open_initial(version, job.stage, job.network, Path(scratch))
    return load_checkpoint(registry.download(job.tracking, version, Path(scratch) / version.name))
