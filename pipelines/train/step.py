"""Step: train one stage with Ray Train, and register its checkpoint as a candidate."""

import argparse
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray

from daefr.checkpoint import CONFIG, MODEL, digest_of, load_checkpoint, save_averaged, write_checkpoint_manifest
from daefr.data.manifest import load_manifest
from daefr.errors import UserError
from daefr.settings.base import StageName
from daefr.stages import UPSTREAM
from pipelines.engine import cluster
from pipelines.engine.command import StageCommand
from pipelines.engine.errors import StepFailedError
from pipelines.engine.progress import Board, say
from pipelines.engine.run import Run
from pipelines.engine.step import Committed, StepInput
from pipelines.preflight import check_nodes
from pipelines.promote import validation
from pipelines.promote.computed import Computed
from pipelines.storage.address import is_address
from pipelines.synthesize.refresh import digests, last_generation, refreshing
from pipelines.synthesize.step import DATASET, shard_cache, synthesize
from pipelines.tracking import lineage, registry
from pipelines.tracking.pyfunc.package import pack
from pipelines.tracking.registry import Version
from pipelines.train.checkpoints import Checkpoints, checkpoint_name
from pipelines.train.fit import REPORTS, fit, resources
from pipelines.train.job import Job

VERSION = 1
CHECKPOINT, AVERAGED = "checkpoint", "checkpoint-ema"


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
    inputs |= {f"{before}_champion": _describe(version) for before, version in champions.items()}
    if start is not None:
        inputs["start"] = _describe(start)
    # without a start, from the champions
    came_from = {key.removesuffix("_champion"): inputs[key] for key in inputs if key == "start" or "_champion" in key}

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
            checkpoints=_checkpoints(run, folder),
            start=start,
            upstream=champions,
            tracking=run.tracking,
            run_id=run_id,
            stop_timeout=run.config.compute.stop_timeout,
            # where its node is lost, it begins anew on another
            board=ray.remote(Board).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote(),
        )
        generations, compute = last_generation(job.dataset, training, refresh), run.config.compute
        with (
            cluster.room(name, resources(job.compute), say, compute.patience),
            refreshing(job.dataset, generations, job.fetch, compute.task_retries),
        ):
            measured = fit(job)
            _publish(job, folder)
        fresh = {f"generation_{number}": digest for number, digest in digests(job.dataset, generations).items()}
        for key, value in fresh.items():
            run.tracking.client.set_tag(run_id, f"daefr.input.{key}", value)
        manifest, checkpoint = load_manifest(job.dataset), digest_of(folder / CHECKPOINT)
        told = lineage.describe(run, name, checkpoint, dataset, came_from)
        run.tracking.client.log_dict(run_id, told.model_dump(mode="json"), lineage.LINEAGE)
        tags = {
            "daefr.dataset": dataset.as_input().digest,
            "daefr.recipes": ", ".join(manifest.recipes.values()),
            "daefr.revision": run.tracking.revision,
            **{f"daefr.upstream.{before}": version.address for before, version in champions.items()},
            **({"daefr.generations": str(generations), "daefr.refresh": str(refresh)} if refresh else {}),
            **({"daefr.start": _describe(start).origin} if start else {}),
        }
        packing = partial(pack, run.config.data.places("faces")) if name == "restoration" else None

        def register(checkpoint: Path, measured: Mapping[str, float], more: Mapping[str, str], alias: str) -> int:
            fingerprint = digest_of(checkpoint)
            # validation is computed in float32 whatever training is
            computed = Computed(device="cuda" if run.config.compute.of(name).gpu else "cpu")
            known = {**validation.tags(measured, manifest, training, computed), **tags, **more}
            return registry.register(
                run.tracking, name, checkpoint, run_id, fingerprint=fingerprint, pack=packing, tags=known, alias=alias
            ).number

        outputs: dict[str, Any] = {"checkpoint": CHECKPOINT, **fresh, **measured}
        if training.ema:
            averaged = {key.removeprefix("ema_"): value for key, value in measured.items() if key.startswith("ema_")}
            outputs["ema_version"] = register(folder / AVERAGED, averaged, {"daefr.weights": "ema"}, registry.AVERAGED)
        outputs["version"] = register(folder / CHECKPOINT, measured, {}, registry.CANDIDATE)
        job.checkpoints.remove()
        made = [CHECKPOINT, AVERAGED] if training.ema else [CHECKPOINT]
        return outputs, [f"{each}/{file}" for each in made for file in (MODEL, CONFIG, "manifest.json")]

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
            f"python -m pipelines train --stage {name} and python -m pipelines promote --stage {name}"
        )
    return version


def _checkpoints(run: Run, folder: Path) -> Checkpoints:
    """Return where a stage keeps its checkpoints on the way: in its folder, or below `compute.checkpoints`."""
    place = run.config.compute.checkpoints
    if place is None:
        return Checkpoints(str(folder / REPORTS))
    root = place.rstrip("/") if is_address(place) else str(Path(place).expanduser().absolute())
    return Checkpoints(f"{root}/{folder.name}")


def _publish(job: Job, folder: Path) -> None:
    """Copy the checkpoint of the last step without what only training needs; its averaged weights beside it."""
    try:
        with job.checkpoints.open(checkpoint_name(job.training.last_step)) as last:
            with _whole(folder / CHECKPOINT) as target:
                for name in (MODEL, CONFIG):
                    shutil.copyfile(last.path / name, target / name)
                write_checkpoint_manifest(target)
            if job.training.ema:
                with _whole(folder / AVERAGED) as target:
                    save_averaged(last, target)
    except UserError as error:
        raise StepFailedError(f"{job.stage}: {error}; the same command goes on from the one before") from None


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """Give a folder to fill, which has the name `target` when the block is done."""
    temporary = target.with_name(f".{target.name}.tmp")
    for folder in (temporary, target):
        shutil.rmtree(folder, ignore_errors=True)
    temporary.mkdir()
    yield temporary
    temporary.rename(target)


def train_with_upstream(run: Run, name: StageName, dataset: Committed) -> Committed:
    """Train a stage, or find it trained; the stages before it must be."""
    upstream = {before: train_with_upstream(run, before, dataset) for before in UPSTREAM[name]}
    return train_stage(run, name, dataset, upstream)


class _Train(StageCommand):
    name = "train"

    def steps(self, options: argparse.Namespace) -> tuple[str, ...]:
        return (options.stage,)

    def work(self, run: Run, options: argparse.Namespace) -> list[str]:
        check_nodes(run.config, [options.stage])
        return [f"model: {train_with_upstream(run, options.stage, synthesize(run)).folder / CHECKPOINT}"]


COMMAND = _Train()
