"""Step: synthesize pairs. Ray tasks make shards, each a function of its sources, the recipes and the seed."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # run as a script: put the project on the path, and let Ray's workers find this file under its module's name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from pipelines.cli import run_command

    sys.exit(run_command("pipelines.synthesize"))

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain, islice
from typing import Any, NamedTuple

from daefr.data import manifest as dataset_manifest
from daefr.data.manifest import (
    DatasetManifest,
    Shard,
    Split,
    load_manifest,
    read_rejected,
    read_shards,
    write_manifest,
)
from daefr.data.shards import file_digest
from daefr.errors import UserError
from daefr.files import is_temporary, write_whole
from daefr.outputs import InTheWayError
from pipelines import cluster
from pipelines.cli import StepCommand
from pipelines.progress import Bar, bar
from pipelines.run import Run
from pipelines.steps import Committed, StepInput
from pipelines.storage import s3
from pipelines.storage.cache import ShardCache
from pipelines.storage.results import Written, open_results
from pipelines.synthesis.plan import Plan, finished, recorded, sizes_in, stored_sizes, usable
from pipelines.synthesis.shards import Receipt, ShardTask, make_shard
from pipelines.synthesis.sources import SourcesDigest, head_digest, list_sources
from pipelines.tasks import run_tasks
from pipelines.tracking import MetricWriter

VERSION = 4
DATASET = "dataset"
SECONDS_BETWEEN_METRICS = 10.0
SPLITS: tuple[Split, ...] = ("train", "validation")


def synthesize(run: Run) -> Committed:
    """Make the dataset of a run, or find it made."""
    data = run.config.data
    sources = list_sources(data)
    settings = {
        "data": data.model_dump(mode="json", exclude={"max_rejected", "detector", "refresh"}),
        "resolution": run.config.resolution,
        "seed": run.config.seed,
    }
    inputs = {"sources": StepInput(digest=head_digest(sources), origin=", ".join(data.places("faces")))}
    if data.align:
        from daefr.faces import find_detector  # noqa: PLC0415  # it imports PyTorch, which aligned crops do without

        detector = find_detector(data.detector)
        inputs["detector"] = StepInput(digest=file_digest(detector), origin=str(detector))

    def work(folder: Path, run_id: str) -> tuple[dict[str, Any], list[str]]:
        plan = Plan(run.config, folder / DATASET, sources)
        plan.folder.mkdir(exist_ok=True)
        _make_all(run, plan, run_id)
        for path in plan.folder.glob(".*.tmp"):
            if is_temporary(path.name):  # a killed task left it
                path.unlink()
        made = _write_manifest(run, plan)
        _check_rejected(run, plan, made)
        files = [dataset_manifest.NAME, made.train.file, made.validation.file, made.rejected.file]
        if plan.store is not None:
            with suppress(PermissionError, s3.StorageError):  # this only tidies up, and not every store can
                s3.forget_unfinished_uploads(plan.store)
            with usable(plan.store):
                _upload(run, plan.folder, plan.store, files[::-1])
        outputs: dict[str, Any] = {
            "dataset": DATASET,
            "sources": plan.digests,
            "train_samples": made.samples("train"),
            "validation_samples": made.samples("validation"),
            "rejected": made.rejected.entries,
            "bytes": made.train.bytes + made.validation.bytes,
        }
        run.tracking.client.log_artifact(run_id, str(plan.folder / dataset_manifest.NAME), DATASET)
        with run.writer(run_id) as writer:
            shards = made.train.entries + made.validation.entries
            writer.log(shards, {name: outputs[name] for name in ("train_samples", "validation_samples")})
        return outputs, [f"{DATASET}/{name}" for name in files]

    def holds(found: Committed) -> bool:
        dataset = found.folder / DATASET
        made = load_manifest(dataset)
        size_of = sizes_in(dataset) if made.store is None else stored_sizes(made.store).get
        shards = chain(read_shards(dataset, made.train), read_shards(dataset, made.validation))
        if any(size_of(shard.name) != shard.bytes for shard in shards):
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

    def __init__(self, shown: Bar, writer: MetricWriter, total: int | None) -> None:
        """Begin with nothing made, of `total` sources where that is known."""
        self._shown, self._writer, self._total = shown, writer, total
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
        left = {"seconds_left": (self._total - self.sources) / rate} if self._total is not None and rate else {}
        self._writer.log(self.shards, {**counts, "sources_per_second": rate, **left})


class Pending(NamedTuple):
    """What is remembered of a task until it is finished."""

    receipt: Path
    sources: int

    def __str__(self) -> str:
        return self.receipt.stem


def _make_all(run: Run, plan: Plan, run_id: str) -> None:
    """Run the tasks that are not finished yet, and record what each has made."""
    size_of = sizes_in(plan.folder) if plan.store is None else stored_sizes(plan.store).get
    unit = "photographs" if run.config.data.align else "faces"
    with bar("synthesize", plan.total, unit) as shown, run.writer(run_id) as writer:
        tally = Tally(shown, writer, plan.total)

        def unfinished() -> Iterator[tuple[Pending, ShardTask]]:
            for task in plan:
                receipt = finished(task, size_of)
                if receipt is None:
                    before = recorded(task)
                    replaced = before.shard.sha256 if before and before.shard else None
                    yield Pending(task.receipt, len(task.sources)), replace(task, before=replaced)
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


def _write_manifest(run: Run, plan: Plan) -> DatasetManifest:
    """Write what lists all that was made and rejected, of which one entry at a time is held."""
    data = run.config.data

    def shards(split: Split) -> Iterator[Shard]:
        return (receipt.shard for receipt in plan.receipts(split) if receipt.shard)

    return write_manifest(
        plan.folder,
        resolution=run.config.resolution,
        recipes={"mild": data.mild, "severe": data.severe},
        variants={"mild": data.variants, "severe": data.variants},
        seed=run.config.seed,
        train=shards("train"),
        validation=shards("validation"),
        rejected=(entry for split in SPLITS for receipt in plan.receipts(split) for entry in receipt.rejected),
        store=plan.store,
    )


def _upload(run: Run, folder: Path, store: str, files: Sequence[str]) -> None:
    """Upload what lists the shards, in place of what this run directory uploaded before."""
    advice = "move it, or give another data.store"
    results = open_results(store, Written.of_place(run.workdir, store), run.workdir, advice)
    for name in files:
        try:
            results.write((folder / name).read_bytes(), name, DATASET)
        except InTheWayError as error:
            raise UserError(f"data.store: {error}") from None


def _check_rejected(run: Run, plan: Plan, made: DatasetManifest) -> None:
    data, total = run.config.data, plan.planned
    fruitless = sum(receipt.fruitless for split in SPLITS for receipt in plan.receipts(split))
    what = "photographs gave no face" if data.align else "faces were rejected"
    counts = ", ".join(f"{count} {kind}" for kind, count in made.reasons.items())
    first = "; ".join(f"{entry.source}: {entry.reason}" for entry in islice(read_rejected(plan.folder, made), 3))
    why = f"{counts}, such as {first}"
    if fruitless > data.max_rejected * total:
        raise UserError(f"{fruitless} of {total} {what}, more than data.max_rejected={data.max_rejected} allows: {why}")
    for split in SPLITS:
        if not made.samples(split):
            raise UserError(f"no face is left for {split} after {fruitless} of {total} {what}: {why}")


class _Synthesize(StepCommand):
    name = "synthesize"

    def work(self, run: Run, options: argparse.Namespace) -> list[str]:  # noqa: ARG002
        return [f"dataset: {synthesize(run).folder / DATASET}"]


COMMAND = _Synthesize()
