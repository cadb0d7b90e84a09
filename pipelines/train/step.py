"""Step: train one stage with Ray Train, and register its checkpoint as a candidate."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import ray

from daefr.checkpoint import checkpoint_digest
from daefr.files import file_digest
from daefr.settings.base import StageName
from daefr.settings.network import NetworkConfig
from daefr.settings.result_keys import depends_on_length, result_settings, settings_beside_length
from daefr.settings.training import TrainingConfig
from pipelines.engine import cluster
from pipelines.engine.compute_info import ComputeInfo
from pipelines.engine.dataset import Dataset
from pipelines.engine.lease import leased
from pipelines.engine.lineage import LINEAGE, Lineage, describe_dataset, upstream_of
from pipelines.engine.progress import ProgressActor, say
from pipelines.engine.step import Step, StepContext, StepInput, StepOutput, StepResult
from pipelines.engine.validation import validation_tags
from pipelines.storage.address import is_address
from pipelines.tracking import registry
from pipelines.tracking.pyfunc.package import pack
from pipelines.train.checkpoints import Checkpoints
from pipelines.train.fit import fit, resources
from pipelines.train.initial import InitialWeights
from pipelines.train.job import TrainingJob
from pipelines.train.loss_weights import find_loss_weights
from pipelines.train.publish import AVERAGED, CHECKPOINT, FILES, publish_checkpoints
from pipelines.train.settings import StageCompute

CHECKPOINTS = "checkpoints"
"""The folder of intermediate checkpoints in a run directory."""


class LqRefresh(Protocol):
    """Makes new generations of LQ images while a training runs on the one before."""

    @property
    def epochs(self) -> int:
        """Epochs per generation."""

    @property
    def generations(self) -> int:
        """The last generation that the training uses, 0 if it uses the first only."""

    def running(self) -> AbstractContextManager[None]:
        """Make the generations while the block runs."""

    def digests(self) -> dict[int, str]:
        """Return the digests of the generations that were made."""


@dataclass(frozen=True)
class TrainStage(Step):
    """Trains a stage."""

    stage: StageName
    network: NetworkConfig
    training: TrainingConfig
    """With the number of steps set."""
    seed: int
    dataset: Dataset
    initial: InitialWeights
    upstream: Mapping[StageName, StepResult]
    """The trainings of the upstream stages."""
    compute: StageCompute
    refresh: LqRefresh | None = None
    intermediate: str | None = None
    """A folder or `s3://bucket/prefix` for intermediate checkpoints, by default in the run directory."""
    unavailable_timeout_s: float = 0
    stop_timeout_s: int = 25
    """Seconds after SIGTERM in which a checkpoint must be stored."""
    run_config: Mapping[str, Any] = field(default_factory=dict)
    """The run's configuration, for the lineage."""
    faces: tuple[str, ...] = ()
    """The sources of the faces, for the license note of the packed model."""

    version = 1

    @property
    def name(self) -> str:
        """See `Step`."""
        return self.stage

    @property
    def command(self) -> str:
        """See `Step`."""
        return f"python -m pipelines train --stage {self.stage}"

    def settings(self) -> dict[str, Any]:
        """See `Step`."""
        settings = {
            "training": result_settings(self.training),
            "network": self.network.model_dump(mode="json"),
            "seed": self.seed,
        }
        return settings if self.refresh is None else {**settings, "refresh": self.refresh.epochs}

    def inputs(self) -> dict[str, StepInput]:
        """See `Step`."""
        upstream: dict[str, StepInput] = {stage: result.as_input() for stage, result in self.upstream.items()}
        return {"dataset": self._dataset_input} | upstream | self.initial.inputs() | self._loss_weights

    @cached_property
    def _dataset_input(self) -> StepInput:
        return self.dataset.as_input()

    @cached_property
    def _loss_weights(self) -> dict[str, StepInput]:
        found = find_loss_weights(self.training)
        return {name: StepInput(digest=file_digest(path), origin=str(path)) for name, path in found.items()}

    def run(self, context: StepContext) -> StepOutput:
        """See `Step`."""
        self.intermediate_checkpoints(context.workdir).check()
        cluster.connect()
        job = self.job(context)
        needed = resources(self.compute)
        with (
            self._leased_checkpoints(context),
            cluster.reserve(self.stage, needed, say, self.unavailable_timeout_s),
            self._refreshing(),
        ):
            metrics = fit(job)
            published = publish_checkpoints(
                job.checkpoints, self.training.last_step, context.folder, averaged=bool(self.training.ema_decay)
            )
            job.checkpoints.keep_only(self.training.last_step)  # a longer training resumes from it
        generations = self._record_generations(context)
        self._record_lineage(context)
        versions = self._register(context, metrics)
        outputs = {"checkpoint": CHECKPOINT, **generations, **metrics, **versions}
        return StepOutput(outputs, [f"{folder}/{file}" for folder in published for file in FILES])

    def job(self, context: StepContext) -> TrainingJob:
        """Define the training, and start its progress actor on the cluster."""
        return TrainingJob(
            stage=self.stage,
            network=self.network,
            training=self.training,
            compute=self.compute,
            seed=self.seed,
            dataset=self.dataset.folder,
            refresh=None if self.refresh is None else self.refresh.epochs,
            fetch=self.dataset.fetch,
            checkpoints=self.intermediate_checkpoints(context.workdir),
            initial_checkpoint=self.initial.checkpoint,
            upstream=self.initial.champions,
            tracking=context.tracking,
            run_id=context.run_id,
            stop_timeout_s=self.stop_timeout_s,
            # if its node is lost, it is restarted on another one
            progress=ray.remote(ProgressActor).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote(),
        )

    def intermediate_checkpoints(self, workdir: Path) -> Checkpoints:
        """Return where intermediate checkpoints are kept: trainings that differ in their length only share them."""
        root = str(workdir / CHECKPOINTS) if self.intermediate is None else self.intermediate.rstrip("/")
        if not is_address(root):
            root = str(Path(root).absolute())
        return Checkpoints(f"{root}/{self._checkpoints_name}")

    @cached_property
    def _checkpoints_name(self) -> str:
        settings = {**self.settings(), "training": settings_beside_length(self.training)}
        key = replace(self.key(), settings=settings)
        return f"{key.folder}-{self.training.last_step}" if depends_on_length(self.training) else key.folder

    @contextmanager
    def _leased_checkpoints(self, context: StepContext) -> Iterator[None]:
        folder = context.workdir / CHECKPOINTS / self._checkpoints_name
        if depends_on_length(self.training) and not folder.exists():
            others = folder.parent.glob(f"{folder.name.rpartition('-')[0]}-*")
            for other in others:
                say(f"{self.stage}: steps={other.name.rpartition('-')[2]} is not resumed: lr_scheduler=cosine "
                    "makes every step depend on the number of steps")  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        with leased(folder, self.stage, wait=context.wait_for_lease):
            yield

    @contextmanager
    def _refreshing(self) -> Iterator[None]:
        if self.refresh is None:
            yield
            return
        with self.refresh.running():
            yield

    def _record_generations(self, context: StepContext) -> dict[str, str]:
        """Record the digests of the generations as tags of the run, and return them for the manifest."""
        if self.refresh is None:
            return {}
        generations = {f"generation_{number}": digest for number, digest in self.refresh.digests().items()}
        for name, digest in generations.items():
            context.tracking.set_tag(context.run_id, f"daefr.input.{name}", digest)
        return generations

    def _record_lineage(self, context: StepContext) -> None:
        lineage = Lineage(
            stage=self.stage,
            checkpoint=checkpoint_digest(context.folder / CHECKPOINT),
            revision=context.tracking.revision,
            config=dict(self.run_config),
            changed={
                "seed": self.seed,
                "training": self.training.model_dump(mode="json", exclude_defaults=True),
                "network": self.network.model_dump(mode="json", exclude_defaults=True),
            },
            dataset=describe_dataset(self.dataset),
            upstream=upstream_of(self.inputs()),
        )
        context.tracking.client.log_dict(context.run_id, lineage.model_dump(mode="json"), LINEAGE)

    def _register(self, context: StepContext, metrics: Mapping[str, float]) -> dict[str, int]:
        """Register the published checkpoints; return their version numbers for the manifest."""
        versions = {}
        if self.training.ema_decay:
            averaged = {key.removeprefix("ema_"): value for key, value in metrics.items() if key.startswith("ema_")}
            tags = self.tags(averaged, context) | {"daefr.weights": "ema"}
            versions["ema_version"] = self._register_one(context, AVERAGED, tags, registry.AVERAGED)
        tags = self.tags(metrics, context)
        return versions | {"version": self._register_one(context, CHECKPOINT, tags, registry.CANDIDATE)}

    def _register_one(self, context: StepContext, name: str, tags: dict[str, str], alias: str) -> int:
        checkpoint = context.folder / name
        packing = partial(pack, self.faces) if self.stage == "restoration" else None
        return registry.register(
            context.tracking, self.stage, checkpoint, context.run_id,
            fingerprint=checkpoint_digest(checkpoint), pack=packing, tags=tags, alias=alias,
        ).number  # fmt: skip

    def tags(self, metrics: Mapping[str, float], context: StepContext) -> dict[str, str]:
        """Return the tags of a version with those validation metrics."""
        manifest, refresh = self.dataset.manifest, self.refresh
        # validation is always computed in float32
        computed = ComputeInfo(device="cuda" if self.compute.use_gpu else "cpu")
        return {
            **validation_tags(metrics, manifest, self.training, computed),
            "daefr.dataset": self._dataset_input.digest,
            "daefr.recipes": ", ".join(manifest.recipes.values()),
            "daefr.revision": context.tracking.revision,
            **self.initial.tags(),
            **(
                {"daefr.generations": str(refresh.generations), "daefr.refresh": str(refresh.epochs)} if refresh else {}
            ),
        }
