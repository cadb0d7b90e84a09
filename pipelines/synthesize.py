"""Step: synthesize pairs. One Ray task makes one shard, a function of its sources, the recipes and the seed."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # run as a script: put the project on the path, and let Ray's workers find this file under its module's name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from pipelines.cli import run_step

    sys.exit(run_step("synthesize"))

import hashlib
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import cv2
import numpy as np

from daefr.config import Settings
from daefr.data import manifest as dataset_manifest
from daefr.data.components import component_boxes, template_landmarks
from daefr.data.images import encode_png
from daefr.data.manifest import DatasetManifest, Rejection, Shard, Split, load_manifest
from daefr.data.shards import Sample, write_shard
from daefr.errors import UserError
from degradations import degrade, get_recipe
from pipelines.config import RunConfig
from pipelines.progress import Bar, bar
from pipelines.run import Run
from pipelines.sources import RejectedError, Source, Sources, SourcesDigest, head_digest, list_sources
from pipelines.steps import Committed, StepInput, write_whole
from pipelines.storage import s3
from pipelines.storage.cache import ShardCache
from pipelines.storage.s3 import StorageError
from pipelines.tasks import run_tasks
from pipelines.tracking import MetricWriter

VERSION = 2
DATASET = "dataset"
SECONDS_BETWEEN_METRICS = 10.0


@dataclass(frozen=True)
class ShardTask:
    """What one task makes: a shard of these sources. `first` is the number of the first in its split."""

    path: Path
    sources: Sequence[Source]
    first: int
    resolution: int
    recipes: dict[str, str]
    variants: int
    seed: int
    store: str | None = None
    """The address on S3 below which the shard belongs instead, under the same name."""

    @property
    def receipt(self) -> Path:
        """Where it is recorded that the task's shard is finished."""
        return self.path.with_suffix(".json")


class Receipt(Settings):
    """What became of a task's sources, whose digest is `sources`. `shard` is None where all of them were rejected."""

    sources: str
    shard: Shard | None
    rejected: list[Rejection]


def make_shard(task: ShardTask) -> Receipt:
    """Degrade the task's faces, write its shard, and return its receipt. Run again, it makes the same bytes."""
    cv2.setNumThreads(1)  # a task has one CPU
    rejected: list[Rejection] = []
    with _local(task) as path:
        shard: Shard | None = write_shard(path, _samples(task, rejected))
        if shard is not None and not shard.samples:
            path.unlink()
            shard = None
        if shard is not None and task.store is not None:
            s3.upload(path, f"{task.store}/{shard.name}")
    return Receipt(sources=SourcesDigest.of(task.sources), shard=shard, rejected=rejected)


@contextmanager
def _local(task: ShardTask) -> Iterator[Path]:
    """Give the place where the shard is written: its own, or one that is there until the shard is uploaded."""
    if task.store is None:
        yield task.path
        return
    with tempfile.TemporaryDirectory(prefix="daefr-") as folder:
        yield Path(folder) / task.path.name


def _samples(task: ShardTask, rejected: list[Rejection]) -> Iterator[Sample]:
    for number, source in enumerate(task.sources, task.first):
        try:
            face = source.load(task.resolution)
        except RejectedError as error:
            rejected.append(Rejection(source=source.name, reason=str(error)))
            continue
        sample: dict[str, str | bytes] = {"__key__": f"{number:08d}", "hq.png": encode_png(face.image)}
        variants: dict[str, list[dict[str, Any]]] = {}
        for kind, recipe in task.recipes.items():
            generators = [_generator(task.seed, source.name, kind, index) for index in range(task.variants)]
            spoiled = [degrade(face.image, get_recipe(recipe), generator) for generator in generators]
            sample |= {f"{kind}.{index}.jpg": lq.jpeg for index, lq in enumerate(spoiled)}
            variants[kind] = [lq.params for lq in spoiled]
        about = {
            "source": source.name,
            "sha256": face.sha256,
            "seed": task.seed,
            "landmarks": face.landmarks,
            # an aligned crop of unknown landmarks has them about where its alignment put them
            "components": component_boxes(face.landmarks or template_landmarks(task.resolution), task.resolution),
            "components_from": "landmarks" if face.landmarks else "template",
            "variants": variants,
        }
        yield sample | {"json": json.dumps(about, sort_keys=True).encode()}


def _generator(seed: int, source: str, kind: str, variant: int) -> np.random.Generator:
    """Return the generator of one LQ image, which depends on the source's name: no other face has a say in it."""
    name = int.from_bytes(hashlib.sha256(f"{source}/{kind}/{variant}".encode()).digest()[:8])
    return np.random.default_rng([seed, name])


def synthesize(run: Run) -> Committed:
    """Make the dataset of a run, or find it made."""
    sources = list_sources(run.config.data)
    settings = {
        "data": run.config.data.model_dump(mode="json", exclude={"max_rejected"}),
        "resolution": run.config.resolution,
        "seed": run.config.seed,
    }
    inputs = {"sources": StepInput(digest=head_digest(sources), origin=", ".join(run.config.data.places("faces")))}

    def work(folder: Path, run_id: str) -> tuple[dict[str, Any], list[str]]:
        plan = Plan(run.config, folder, sources)
        plan.folder.mkdir(exist_ok=True)
        _make_all(run, plan, run_id)
        made = _manifest(run, plan)
        for left_by_a_killed_task in plan.folder.glob("*.tmp"):
            left_by_a_killed_task.unlink()
        _check_rejected(made, plan.faces, run.config.data.max_rejected)
        path = plan.folder / dataset_manifest.NAME
        write_whole(path, made.model_dump_json(indent=2) + "\n")
        if plan.store is not None:
            with suppress(PermissionError, StorageError):  # this only tidies up, and not every store can
                s3.forget_unfinished_uploads(plan.store)
            with _usable(plan.store):
                s3.upload(path, f"{plan.store}/{path.name}")
        shards = [*made.train, *made.validation]
        outputs: dict[str, Any] = {
            "dataset": DATASET,
            "sources": plan.digests,
            "train_samples": made.samples("train"),
            "validation_samples": made.samples("validation"),
            "rejected": len(made.rejected),
            "bytes": sum(shard.bytes for shard in shards),
        }
        run.tracking.client.log_artifact(run_id, str(path), DATASET)
        with run.writer(run_id) as writer:
            writer.log(len(shards), {name: outputs[name] for name in ("train_samples", "validation_samples")})
        here = [] if plan.store else shards
        return outputs, [f"{DATASET}/{dataset_manifest.NAME}", *(f"{DATASET}/{shard.name}" for shard in here)]

    def holds(found: Committed) -> bool:
        made = load_manifest(found.folder / DATASET)
        if made.store is not None:
            stored = _stored(made.store)
            if any(stored.get(shard.name) != shard.bytes for shard in [*made.train, *made.validation]):
                return False
        # the fingerprint covers the first of the sources only
        long = any(part.listing for part in sources.values())
        recorded = found.manifest.outputs["sources"]
        return not long or recorded == {split: SourcesDigest.of(part) for split, part in sources.items()}

    return run.step("synthesize", VERSION, settings, inputs, work, holds=holds)


def shard_cache(run: Run, dataset: Path) -> ShardCache | None:
    """Return what brings the shards of a dataset to a worker, None where they are beside their manifest."""
    store = load_manifest(dataset).store
    return None if store is None else ShardCache(store, run.config.compute.cache, run.config.compute.cache_bytes)


class Plan:
    """The tasks of a dataset, planned while they are iterated over: what is planned and done takes no memory."""

    def __init__(self, config: RunConfig, step: Path, sources: Mapping[Split, Sources]) -> None:
        """Plan a dataset for the step in folder `step`."""
        self.folder = step / DATASET
        store = config.data.store
        self.store = None if store is None else f"{store.rstrip('/')}/{step.name}"
        self._config, self._sources = config, sources
        self._digests: dict[Split, SourcesDigest] = {"validation": SourcesDigest(), "train": SourcesDigest()}
        self._shards: dict[Split, int] = {"validation": 0, "train": 0}

    def __iter__(self) -> Iterator[ShardTask]:
        """Yield the tasks, in the order of the sources."""
        data = self._config.data
        for split in self._shards:
            sources = iter(self._sources[split])
            while part := tuple(islice(sources, data.shard_samples)):
                number = self._shards[split]
                self._shards[split] += 1
                for source in part:
                    self._digests[split].add(source)
                yield ShardTask(
                    path=self._path(split, number),
                    sources=part,
                    first=number * data.shard_samples,
                    resolution=self._config.resolution,
                    recipes={"mild": data.mild, "severe": data.severe},
                    # validation images are degraded once and for all
                    variants=data.variants if split == "train" else 1,
                    seed=self._config.seed,
                    store=self.store,
                )

    @property
    def total(self) -> int | None:
        """The number of faces, None where there are more than were listed yet."""
        if any(part.listing for part in self._sources.values()):
            return None
        return sum(len(part.head) for part in self._sources.values())

    @property
    def faces(self) -> int:
        """The number of faces that were planned until now."""
        return sum(added.count for added in self._digests.values())

    @property
    def digests(self) -> dict[Split, str]:
        """The digests of the faces that were planned until now."""
        return {split: str(added) for split, added in self._digests.items()}

    def receipts(self, split: Split) -> Iterator[Receipt]:
        """Read what the tasks of a split left, in their order."""
        for number in range(self._shards[split]):
            path = self._path(split, number).with_suffix(".json")
            yield Receipt.model_validate_json(path.read_text())

    def _path(self, split: Split, number: int) -> Path:
        return self.folder / f"{split}-{number:06d}.tar"


class Tally:
    """Counts what was made, and tells it: on the terminal, and to the step's MLflow run, by the number of shards."""

    def __init__(self, shown: Bar, writer: MetricWriter) -> None:
        """Begin with nothing made."""
        self._shown, self._writer = shown, writer
        self._start, self._told = time.monotonic(), -SECONDS_BETWEEN_METRICS
        self._made = 0
        self.shards = self.faces = self.bytes = self.rejected = 0

    def add(self, receipt: Receipt, faces: int, made_now: bool) -> None:
        """Count a task of that many faces, which may have been finished before."""
        self.shards += 1
        self.faces += faces
        self.bytes += receipt.shard.bytes if receipt.shard else 0
        self.rejected += len(receipt.rejected)
        self._made += faces * made_now
        self._shown.update(self.faces, f"{self.bytes / 1e6:.1f} MB, {self.rejected} rejected")
        if time.monotonic() - self._told >= SECONDS_BETWEEN_METRICS:
            self.tell()

    def tell(self) -> None:
        """Send the counts."""
        self._told = time.monotonic()
        counts = {"faces": self.faces, "bytes": self.bytes, "rejected": self.rejected}
        rate = self._made / max(self._told - self._start, 1e-6)
        self._writer.log(self.shards, {**counts, "faces_per_second": rate})


def _make_all(run: Run, plan: Plan, run_id: str) -> None:
    """Run the tasks that are not finished yet, and record what each has made."""
    sizes = None if plan.store is None else _stored(plan.store)
    with bar("synthesize", plan.total, "faces") as shown, run.writer(run_id) as writer:
        tally = Tally(shown, writer)

        def unfinished() -> Iterator[tuple[Pending, ShardTask]]:
            for task in plan:
                receipt = _finished(task, sizes)
                if receipt is None:
                    yield Pending(task.receipt, len(task.sources)), task
                else:
                    tally.add(receipt, len(task.sources), made_now=False)

        compute = run.config.compute
        for pending, receipt in run_tasks(
            make_shard, unfinished(), in_flight=compute.tasks, retries=compute.task_retries
        ):
            write_whole(pending.receipt, receipt.model_dump_json())
            tally.add(receipt, pending.faces, made_now=True)
        tally.tell()


class Pending(NamedTuple):
    """What is remembered of a task until it is finished."""

    receipt: Path
    faces: int

    def __str__(self) -> str:
        return self.receipt.stem


def _finished(task: ShardTask, stored: Mapping[str, int] | None) -> Receipt | None:
    """Return what a task recorded when it was finished with the same sources, None if it was not or its shard is gone.

    `stored` gives the sizes of the shards in the store, if they belong there.
    """
    try:
        receipt = Receipt.model_validate_json(task.receipt.read_text())
    except (FileNotFoundError, ValueError):
        return None
    if receipt.sources != SourcesDigest.of(task.sources):
        return None
    if receipt.shard is None:
        return receipt
    if stored is not None:
        size = stored.get(task.path.name)
    else:
        size = task.path.stat().st_size if task.path.is_file() else None
    return receipt if size == receipt.shard.bytes else None


def _stored(store: str) -> dict[str, int]:
    """Return the names and sizes of what is in the store of a dataset."""
    with _usable(store):
        return {found.address.rpartition("/")[2]: found.size for found in s3.list_objects(f"{store}/")}


@contextmanager
def _usable(store: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, PermissionError) as error:
        raise UserError(f"data.store: {store} cannot be used: {error.strerror}") from None


def _manifest(run: Run, plan: Plan) -> DatasetManifest:
    shards: dict[Split, list[Shard]] = {"train": [], "validation": []}
    rejected: list[Rejection] = []
    for split in shards:
        for receipt in plan.receipts(split):
            shards[split] += [receipt.shard] if receipt.shard else []
            rejected += receipt.rejected
    data = run.config.data
    return DatasetManifest(
        resolution=run.config.resolution,
        recipes={"mild": data.mild, "severe": data.severe},
        variants={"mild": data.variants, "severe": data.variants},
        seed=run.config.seed,
        train=shards["train"],
        validation=shards["validation"],
        rejected=rejected,
        store=plan.store,
    )


def _check_rejected(made: DatasetManifest, total: int, allowed: float) -> None:
    share = len(made.rejected) / total
    examples = "; ".join(f"{entry.source} is {entry.reason}" for entry in made.rejected[:3])
    if share > allowed:
        raise UserError(
            f"{len(made.rejected)} of {total} faces were rejected, more than data.max_rejected={allowed} allows: "
            f"{examples}"
        )
    for split in ("train", "validation"):
        if not made.samples(split):
            raise UserError(
                f"no face is left for {split} after {len(made.rejected)} of {total} were rejected: {examples}"
            )
