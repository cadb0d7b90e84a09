"""Step: synthesize pairs. Ray tasks make shards, each a function of its sources, the recipes and the seed."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # run as a script: put the project on the path, and let Ray's workers find this file under its module's name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from pipelines.cli import run_step

    sys.exit(run_step("synthesize"))

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from daefr.data import manifest as dataset_manifest
from daefr.data.manifest import DatasetManifest, Rejection, Shard, Split, count_reasons, load_manifest
from daefr.data.shards import file_digest
from daefr.errors import UserError
from daefr.faces import find_detector
from pipelines import cluster
from pipelines.plan import Plan, finished, stored_sizes, usable
from pipelines.progress import Bar, bar
from pipelines.run import Run
from pipelines.shards import Receipt, ShardTask, make_shard
from pipelines.sources import SourcesDigest, head_digest, list_sources
from pipelines.steps import Committed, StepInput, write_whole
from pipelines.storage import s3
from pipelines.storage.cache import ShardCache
from pipelines.tasks import run_tasks
from pipelines.tracking import MetricWriter

VERSION = 3
DATASET = "dataset"
SECONDS_BETWEEN_METRICS = 10.0


def synthesize(run: Run) -> Committed:
    """Make the dataset of a run, or find it made."""
    data = run.config.data
    sources = list_sources(data)
    settings = {
        "data": data.model_dump(mode="json", exclude={"max_rejected", "detector"}),
        "resolution": run.config.resolution,
        "seed": run.config.seed,
    }
    inputs = {"sources": StepInput(digest=head_digest(sources), origin=", ".join(data.places("faces")))}
    if data.align:
        detector = find_detector(data.detector)
        inputs["detector"] = StepInput(digest=file_digest(detector), origin=str(detector))

    def work(folder: Path, run_id: str) -> tuple[dict[str, Any], list[str]]:
        plan = Plan(run.config, folder / DATASET, sources)
        plan.folder.mkdir(exist_ok=True)
        _make_all(run, plan, run_id)
        made, fruitless = _manifest(run, plan)
        for left_by_a_killed_task in plan.folder.glob("*.tmp"):
            left_by_a_killed_task.unlink()
        _check_rejected(run, made, fruitless, plan.planned)
        path = plan.folder / dataset_manifest.NAME
        write_whole(path, made.model_dump_json(indent=2) + "\n")
        if plan.store is not None:
            with suppress(PermissionError, s3.StorageError):  # this only tidies up, and not every store can
                s3.forget_unfinished_uploads(plan.store)
            with usable(plan.store):
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
            stored = stored_sizes(made.store)
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


class Tally:
    """Counts what was made, and tells it: on the terminal, and to the step's MLflow run, by the number of shards."""

    def __init__(self, shown: Bar, writer: MetricWriter) -> None:
        """Begin with nothing made."""
        self._shown, self._writer = shown, writer
        self._start, self._told = time.monotonic(), -SECONDS_BETWEEN_METRICS
        self._made = 0
        self.shards = self.sources = self.bytes = self.rejected = 0

    def add(self, receipt: Receipt, sources: int, made_now: bool) -> None:
        """Count a task of that many sources, which may have been finished before."""
        self.shards += 1
        self.sources += sources
        self.bytes += receipt.shard.bytes if receipt.shard else 0
        self.rejected += len(receipt.rejected)
        self._made += sources * made_now
        self._shown.update(self.sources, f"{self.bytes / 1e6:.1f} MB, {self.rejected} rejected")
        if time.monotonic() - self._told >= SECONDS_BETWEEN_METRICS:
            self.tell()

    def tell(self) -> None:
        """Send the counts."""
        self._told = time.monotonic()
        counts = {"sources": self.sources, "bytes": self.bytes, "rejected": self.rejected}
        rate = self._made / max(self._told - self._start, 1e-6)
        self._writer.log(self.shards, {**counts, "sources_per_second": rate})


class Pending(NamedTuple):
    """What is remembered of a task until it is finished."""

    receipt: Path
    sources: int

    def __str__(self) -> str:
        return self.receipt.stem


def _make_all(run: Run, plan: Plan, run_id: str) -> None:
    """Run the tasks that are not finished yet, and record what each has made."""
    sizes = None if plan.store is None else stored_sizes(plan.store)
    unit = "photographs" if run.config.data.align else "faces"
    with bar("synthesize", plan.total, unit) as shown, run.writer(run_id) as writer:
        tally = Tally(shown, writer)

        def unfinished() -> Iterator[tuple[Pending, ShardTask]]:
            for task in plan:
                receipt = finished(task, sizes)
                if receipt is None:
                    yield Pending(task.receipt, len(task.sources)), task
                else:
                    tally.add(receipt, len(task.sources), made_now=False)

        compute = run.config.compute
        for pending, receipt in run_tasks(
            make_shard,
            unfinished(),
            in_flight=compute.tasks,
            retries=compute.task_retries,
            gpus=cluster.gpu_share if run.config.data.align else None,
        ):
            write_whole(pending.receipt, receipt.model_dump_json())
            tally.add(receipt, pending.sources, made_now=True)
        tally.tell()


def _manifest(run: Run, plan: Plan) -> tuple[DatasetManifest, int]:
    """Return the manifest, and how many of the sources gave no sample."""
    shards: dict[Split, list[Shard]] = {"train": [], "validation": []}
    rejected: list[Rejection] = []
    fruitless = 0
    for split in shards:
        for receipt in plan.receipts(split):
            shards[split] += [receipt.shard] if receipt.shard else []
            rejected += receipt.rejected
            fruitless += receipt.fruitless
    data = run.config.data
    manifest = DatasetManifest(
        resolution=run.config.resolution,
        recipes={"mild": data.mild, "severe": data.severe},
        variants={"mild": data.variants, "severe": data.variants},
        seed=run.config.seed,
        train=shards["train"],
        validation=shards["validation"],
        rejected=rejected,
        reasons=count_reasons(rejected),
        store=plan.store,
    )
    return manifest, fruitless


def _check_rejected(run: Run, made: DatasetManifest, fruitless: int, total: int) -> None:
    data = run.config.data
    what = "photographs gave no face" if data.align else "faces were rejected"
    counts = ", ".join(f"{count} {kind}" for kind, count in made.reasons.items())
    why = f"{counts}, such as " + "; ".join(f"{entry.source}: {entry.reason}" for entry in made.rejected[:3])
    if fruitless > data.max_rejected * total:
        raise UserError(f"{fruitless} of {total} {what}, more than data.max_rejected={data.max_rejected} allows: {why}")
    for split in ("train", "validation"):
        if not made.samples(split):
            raise UserError(f"no face is left for {split} after {fruitless} of {total} {what}: {why}")
