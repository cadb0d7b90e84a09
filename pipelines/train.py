"""Step: train one stage with Ray Train, and register its checkpoint as a candidate."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # run as a script: put the project on the path, and let Ray's workers find this file under its module's name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from pipelines.cli import run_step

    sys.exit(run_step("train"))

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import TorchConfig, TorchTrainer

from daefr.checkpoint import CONFIG, MODEL, Checkpoint, digest_of, load_checkpoint, write_manifest
from daefr.config import StageName
from daefr.data.dataset import Fetch
from daefr.data.images import Image
from daefr.data.manifest import load_manifest
from daefr.errors import UserError
from daefr.network.config import NetworkConfig
from daefr.stages import UPSTREAM, build_stage, continue_from, start_from
from daefr.stages.config import TrainingConfig
from daefr.training.loop import NonFiniteLossError, train
from daefr.training.reporter import Save
from pipelines import cluster, registry
from pipelines.config import StageCompute
from pipelines.errors import StepFailedError
from pipelines.gate import measured_on
from pipelines.progress import Board, bar, follow, say
from pipelines.refresh import digests, last_generation, refreshing
from pipelines.registry import Version
from pipelines.run import Run
from pipelines.steps import Committed, StepInput
from pipelines.synthesize import DATASET, shard_cache
from pipelines.tracking import MetricWriter, Tracking

VERSION = 1
CHECKPOINT = "checkpoint"
REPORTS = "ray"


@dataclass(frozen=True)
class Job:
    """Everything that a worker needs to train a stage."""

    stage: StageName
    network: NetworkConfig
    training: TrainingConfig
    compute: StageCompute
    seed: int
    dataset: Path
    refresh: int | None
    """Epochs after which the LQ images are those of the next generation."""
    fetch: Fetch | None
    """Brings the dataset's shards where they are not beside its manifest."""
    start: Version | Path | None
    """A checkpoint of the stage itself; without one, the stage starts from `upstream`."""
    upstream: Mapping[StageName, Version]
    tracking: Tracking
    run_id: str
    board: Any


def train_stage(run: Run, name: StageName, dataset: Committed, upstream: Mapping[StageName, Committed]) -> Committed:
    """Train a stage, or find it trained.

    The later stages start from the champions of those before, unless the configuration gives them another start.
    """
    training = run.config.stages.of(name).in_steps(load_manifest(dataset.folder / DATASET).samples("train"))
    start = _start(run, training.start)
    champions = {} if start else {before: _champion(run, before) for before in UPSTREAM[name]}
    settings = {
        "training": training.model_dump(mode="json"),
        "network": run.config.network.model_dump(mode="json"),
        "seed": run.config.seed,
    }
    refresh = run.config.data.refresh if name != "hq_codebook" else None  # which sees no LQ image
    if refresh:
        settings["refresh"] = refresh
    inputs = {"dataset": dataset.as_input()}
    inputs |= {before: upstream[before].as_input() for before in UPSTREAM[name]}
    if start is not None:
        inputs["start"] = _describe(start)
    inputs |= {f"{before}_champion": _describe(version) for before, version in champions.items()}

    def work(folder: Path, run_id: str) -> tuple[dict[str, Any], list[str]]:
        cluster.connect()
        job = Job(
            stage=name,
            network=run.config.network,
            training=training,
            compute=run.config.compute.of(name),
            seed=run.config.seed,
            dataset=dataset.folder / DATASET,
            refresh=refresh,
            fetch=shard_cache(run, dataset.folder / DATASET),
            start=start,
            upstream=champions,
            tracking=run.tracking,
            run_id=run_id,
            board=ray.remote(Board).options(num_cpus=0).remote(),
        )
        generations = last_generation(job.dataset, training, refresh)
        with cluster.room(name, resources(job.compute), say), refreshing(
            job.dataset, generations, job.fetch, run.config.compute.task_retries
        ):  # fmt: skip
            measured = _fit(job, folder)
        lineage = {f"generation_{number}": digest for number, digest in digests(job.dataset, generations).items()}
        for key, value in lineage.items():
            run.tracking.client.set_tag(run_id, f"daefr.input.{key}", value)
        manifest = load_manifest(job.dataset)
        version = registry.register(
            run.tracking,
            name,
            folder / CHECKPOINT,
            run_id,
            fingerprint=digest_of(folder / CHECKPOINT),
            tags={
                "daefr.validation_loss": repr(measured["validation_loss"]),
                "daefr.measured_on": measured_on(manifest, training),
                "daefr.dataset": dataset.as_input().digest,
                "daefr.recipes": ", ".join(manifest.recipes.values()),
                "daefr.revision": run.tracking.revision,
                **({"daefr.generations": str(generations), "daefr.refresh": str(refresh)} if refresh else {}),
                **{f"daefr.upstream.{before}": version.address for before, version in champions.items()},
                **({"daefr.start": _describe(start).origin} if start else {}),
            },
        )
        return {"checkpoint": CHECKPOINT, "version": version.number, **lineage, **measured}, [
            f"{CHECKPOINT}/{file}" for file in (MODEL, CONFIG, "manifest.json")
        ]

    return run.step(name, VERSION, settings, inputs, work)


def _start(run: Run, address: str | None) -> Version | Path | None:
    if address is None or not address.startswith("models:"):
        return None if address is None else load_checkpoint(Path(address).absolute()).path
    return registry.resolve(run.tracking, address)


def _describe(start: Version | Path) -> StepInput:
    if isinstance(start, Path):
        return StepInput(digest=digest_of(start), origin=str(start))
    return StepInput(digest=start.fingerprint, origin=start.address)


def _champion(run: Run, name: StageName) -> Version:
    version = registry.champion(run.tracking, name)
    if version is None:
        raise UserError(
            f"{registry.MODELS[name]} has no champion to start from: train it and promote it first, with "
            f"python pipelines/train.py --stage {name} and python pipelines/promote.py --stage {name}"
        )
    return version


def _fit(job: Job, folder: Path) -> dict[str, float]:
    """Train in Ray, going on from the last checkpoint that was reported; leave the result in `folder`."""
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if job.compute.gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=job.compute.workers,
            use_gpu=job.compute.gpu,
            resources_per_worker=_per_worker(job.compute),
        ),
        run_config=ray.train.RunConfig(
            storage_path=str(folder),
            name=REPORTS,
            failure_config=ray.train.FailureConfig(max_failures=job.compute.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        with bar(job.stage, job.training.last_step, "steps") as shown, follow(job.board, shown):
            result = trainer.fit()
    except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
        raise StepFailedError(f"{job.stage}: {_cause(error)}") from error
    outcome: dict[str, Any] = result.return_value
    if "mistake" in outcome:
        raise UserError(outcome["mistake"])
    if "failure" in outcome:
        raise StepFailedError(outcome["failure"])
    with result.checkpoint.as_directory() as reported:
        _publish(Path(reported), folder / CHECKPOINT)
    shutil.rmtree(folder / REPORTS)
    return dict(outcome["measured"])


def _publish(reported: Path, target: Path) -> None:
    """Copy a checkpoint without what only training needs."""
    load_checkpoint(reported)
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(target, ignore_errors=True)
    temporary.mkdir()
    for name in (MODEL, CONFIG):
        shutil.copyfile(reported / name, temporary / name)
    write_manifest(temporary)
    temporary.rename(target)


def _per_worker(compute: StageCompute) -> dict[str, float]:
    return {"CPU": compute.cpus} | ({"GPU": 1.0} if compute.gpu else {})


def resources(compute: StageCompute) -> dict[str, float]:
    """Return what all workers of a stage take of a cluster."""
    return {kind: amount * compute.workers for kind, amount in _per_worker(compute).items()}


def _cause(error: BaseException) -> str:
    """Return the cause of a failed training in one line."""
    failures: Mapping[int, BaseException] = getattr(error, "worker_failures", {})
    causes = [f"rank {rank}: {failure}" for rank, failure in sorted(failures.items())] or [str(error)]
    return " ".join(causes[0].split())[:500]


def train_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """Train on one rank. What trying again cannot mend is returned instead of raised, as Ray would try again."""
    job: Job = settings["job"]
    torch.set_num_threads(max(1, int(job.compute.cpus)))
    try:
        stage = build_stage(job.stage, job.network, job.training, job.seed)
        reported = ray.train.get_checkpoint()
        with tempfile.TemporaryDirectory() as scratch, _RayReporter(job) as reporter:
            resume = None
            if reported is not None:
                resume = load_checkpoint(Path(reported.to_directory(scratch)))
            elif job.start is not None:
                continue_from(stage, _fetch(job, job.start, scratch))
            elif job.upstream:
                start_from(stage, {name: _fetch(job, version, scratch) for name, version in job.upstream.items()})
            measured = train(
                stage,
                job.training,
                job.dataset,
                reporter,
                seed=job.seed,
                device=ray.train.torch.get_device(),
                from_scratch=job.start is None and not job.upstream,
                resume=resume,
                workers=job.compute.loaders,
                refresh=job.refresh,
                check_digests=job.compute.check_digests,
                fetch=job.fetch,
            )
    except UserError as error:
        return {"mistake": str(error)}
    except NonFiniteLossError as error:
        return {"failure": str(error)}
    return {"measured": measured}


def _fetch(job: Job, version: Version | Path, scratch: str) -> Checkpoint:
    if isinstance(version, Path):
        return load_checkpoint(version)
    return load_checkpoint(registry.download(job.tracking, version, Path(scratch) / version.name))


class _RayReporter:
    """Sends metrics and pictures to MLflow, progress to the driver, and checkpoints to Ray Train."""

    def __init__(self, job: Job) -> None:
        self._job, self._rank = job, ray.train.get_context().get_world_rank()
        self._writer = MetricWriter(job.tracking, job.run_id) if self._rank == 0 else None

    def __enter__(self) -> "_RayReporter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def metrics(self, step: int, values: dict[str, float]) -> None:
        if self._writer is not None:
            self._writer.log(step, values)
        if "samples_per_second" in values:
            note = f"loss {values['loss']:.4f}, {values['samples_per_second']:.1f} samples a second"
            self._job.board.write.remote(step, note)

    def image(self, step: int, name: str, image: Image) -> None:
        if self._writer is not None:
            self._writer.image(name, step, image)

    def checkpoint(self, step: int, save: Save) -> None:
        name = f"step-{step:09d}"
        with tempfile.TemporaryDirectory() as folder:
            mine = None
            if self._writer is not None:
                # a training that goes on from this checkpoint does not record again what came before it
                self._writer.flush()
                save(Path(folder))
                mine = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"step": step}, checkpoint=mine, checkpoint_dir_name=name)
