"""Step: synthesize pairs. Ray tasks make shards, each a function of its sources, the recipes and the seed."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from daefr.data import manifest as dataset_manifest
from daefr.data.manifest import (
    DatasetManifest,
    Shard,
    Split,
    load_manifest,
    read_rejected,
    read_shards,
    write_dataset_manifest,
)
from daefr.errors import UserError
from daefr.files import file_digest, is_temporary, write_atomically
from daefr.outputs import InTheWayError
from pipelines.engine import cluster
from pipelines.engine.dataset import DATASET
from pipelines.engine.progress import Bar, bar, say
from pipelines.engine.step import Step, StepContext, StepInput, StepOutput, StepResult
from pipelines.engine.tasks import run_tasks
from pipelines.storage import s3
from pipelines.storage.listing import ListingDigest
from pipelines.storage.results import Written, open_results
from pipelines.synthesize.plan import Plan, finished, recorded, sizes_in, stored_sizes, usable
from pipelines.synthesize.settings import DataConfig
from pipelines.synthesize.shards import Receipt, ShardTask, make_shard
from pipelines.synthesize.sources import Sources, head_digest, list_sources
from pipelines.tracking.client import MetricWriter

SECONDS_BETWEEN_METRICS = 10.0
SPLITS: tuple[Split, ...] = ("train", "validation")


@dataclass(frozen=True)
class Synthesize(Step):
    """Makes the dataset of a run."""

    data: DataConfig
    resolution: int
    seed: int
    sources: Mapping[Split, Sources]
    detector: Path | None = None
    """The weights that `data.align` uses."""
    max_in_flight: int | None = None
    task_retries: int = 0

    name = "synthesize"
    version = 5

    @classmethod
    def open(
        cls, data: DataConfig, resolution: int, seed: int, max_in_flight: int | None, task_retries: int
    ) -> "Synthesize":
        """List the sources, and find the detector where the configuration aligns photographs. Raises `UserError`."""
        sources, detector = list_sources(data), None
        if data.align:
            # it imports PyTorch, which aligned crops do without
            from daefr.faces.detector import find_detector  # noqa: PLC0415

            detector = find_detector(data.detector)
        return cls(data, resolution, seed, sources, detector, max_in_flight, task_retries)

    def settings(self) -> dict[str, Any]:
        """See `Step`."""
        return {
            "data": self.data.model_dump(
                mode="json", exclude={"max_rejected_fraction", "detector", "refresh_every_n_epochs"}
            ),
            "resolution": self.resolution,
            "seed": self.seed,
        }

    def inputs(self) -> dict[str, StepInput]:
        """See `Step`."""
        origin = ", ".join(self.data.locations("faces"))
        inputs = {"sources": StepInput(digest=head_digest(self.sources), origin=origin)}
        if self.detector is not None:
            inputs["detector"] = StepInput(digest=file_digest(self.detector), origin=str(self.detector))
        return inputs

    def run(self, context: StepContext) -> StepOutput:
        """See `Step`."""
        plan = Plan(self.data, self.resolution, self.seed, context.folder / DATASET, self.sources)
        plan.folder.mkdir(exist_ok=True)
        self._make_shards(plan, context)
        for path in plan.folder.glob(".*.tmp"):
            if is_temporary(path.name):  # a killed task left it
                path.unlink()
        manifest = self._write_manifest(plan)
        fruitless = self._check_rejected(plan, manifest)
        files = [dataset_manifest.NAME, manifest.train.file, manifest.validation.file, manifest.rejected.file]
        if plan.store is not None:
            _upload(plan.folder, files[::-1], plan.store, context.workdir)
        outputs = _outputs(plan, manifest) | self._account(plan, fruitless)
        context.tracking.client.log_artifact(context.run_id, str(plan.folder / dataset_manifest.NAME), DATASET)
        with context.writer() as writer:
            shards = manifest.train.entries + manifest.validation.entries
            writer.log(shards, {name: outputs[name] for name in ("train_samples", "validation_samples")})
        return StepOutput(outputs, [f"{DATASET}/{name}" for name in files])

    def is_still_valid(self, result: StepResult) -> bool:
        """See `Step`: whether all shards exist, and the sources after the first are the same."""
        dataset = result.folder / DATASET
        manifest = load_manifest(dataset)
        size_of = sizes_in(dataset) if manifest.store is None else stored_sizes(manifest.store).get
        shards = chain(read_shards(dataset, manifest.train), read_shards(dataset, manifest.validation))
        if any(size_of(shard.name) != shard.bytes for shard in shards):
            return False
        if not any(part.listing for part in self.sources.values()):
            return True  # the fingerprint covers all sources
        return bool(
            result.outputs["sources"] == {split: ListingDigest.of(part) for split, part in self.sources.items()}
        )

    def _account(self, plan: Plan, fruitless: int) -> dict[str, Any]:
        """Log what became of everything that was listed; return the numbers."""
        used, passed_over = plan.planned - fruitless, {split: part.passed_over for split, part in self.sources.items()}
        summary = "".join(each.summary() for each in passed_over.values())
        say(f"{self.name}: {plan.planned} sources: {used} used, {fruitless} rejected{summary}")
        for line in (line for each in passed_over.values() for line in each.named()):
            say(f"{self.name}: passed over: {line}")
        counts = {split: asdict(each) for split, each in passed_over.items()}
        return {"listed": plan.planned, "used": used, "unused": fruitless, "passed_over": counts}

    def _make_shards(self, plan: Plan, context: StepContext) -> None:
        """Run the tasks that are not finished yet, and record what each has made."""
        size_of = sizes_in(plan.folder) if plan.store is None else stored_sizes(plan.store).get
        unit = "photographs" if self.data.align else "faces"
        with bar(self.name, plan.total, unit) as shown, context.writer() as writer:
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

            for pending, receipt in run_tasks(
                make_shard,
                unfinished(),
                max_in_flight=self.max_in_flight,
                retries=self.task_retries,
                gpus=cluster.gpu_share if self.data.align else None,
            ):
                write_atomically(pending.receipt, receipt.model_dump_json())
                tally.add(receipt, pending.sources, made_now=True)
            tally.send()

    def _write_manifest(self, plan: Plan) -> DatasetManifest:
        """Write the manifest, which lists all shards and rejections; one entry at a time is in memory."""

        def shards(split: Split) -> Iterator[Shard]:
            return (receipt.shard for receipt in plan.receipts(split) if receipt.shard)

        return write_dataset_manifest(
            plan.folder,
            resolution=self.resolution,
            recipes={"mild": self.data.mild_recipe, "severe": self.data.severe_recipe},
            variants={"mild": self.data.lq_variants, "severe": self.data.lq_variants},
            seed=self.seed,
            train=shards("train"),
            validation=shards("validation"),
            rejected=(entry for split in SPLITS for receipt in plan.receipts(split) for entry in receipt.rejected),
            store=plan.store,
        )

    def _check_rejected(self, plan: Plan, manifest: DatasetManifest) -> int:
        """Return how many sources gave no sample; raise `UserError` where these are too many, or a split has none."""
        total = plan.planned
        fruitless = sum(receipt.fruitless for split in SPLITS for receipt in plan.receipts(split))
        what = "photographs gave no face" if self.data.align else "faces were rejected"
        counts = ", ".join(f"{count} {kind}" for kind, count in manifest.reasons.items())
        first = "; ".join(
            f"{entry.source}: {entry.reason}" for entry in islice(read_rejected(plan.folder, manifest), 3)
        )
        why = f"{counts}, such as {first}"
        if fruitless > self.data.max_rejected_fraction * total:
            raise UserError(
                f"{fruitless} of {total} {what}, more than data.max_rejected_fraction="
                f"{self.data.max_rejected_fraction} allows: {why}"
            )
        for split in SPLITS:
            if not manifest.samples(split):
                raise UserError(f"no face is left for {split} after {fruitless} of {total} {what}: {why}")
        return fruitless


def _upload(folder: Path, files: Sequence[str], store: str, workdir: Path) -> None:
    """Upload the files that list the shards, in place of what this run directory uploaded before."""
    with suppress(PermissionError, s3.StorageError):  # this only tidies up, and not every store can
        s3.forget_unfinished_uploads(store)
    results = open_results(
        store, Written.of_place(workdir, store), workdir, "move it, or give another data.shard_storage"
    )
    with usable(store):
        for name in files:
            try:
                results.write((folder / name).read_bytes(), name, DATASET)
            except InTheWayError as error:
                raise UserError(f"data.shard_storage: {error}") from None


def _outputs(plan: Plan, manifest: DatasetManifest) -> dict[str, Any]:
    return {
        "dataset": DATASET,
        "sources": plan.digests,
        "train_samples": manifest.samples("train"),
        "validation_samples": manifest.samples("validation"),
        "rejected": manifest.rejected.entries,
        "bytes": manifest.train.bytes + manifest.validation.bytes,
    }


class Tally:
    """Counts what was made, and shows it on the terminal and in the step's MLflow run, by the number of shards."""

    def __init__(self, shown: Bar, writer: MetricWriter, total: int | None) -> None:
        """Begin with nothing made, of `total` sources where that is known."""
        self._shown, self._writer, self._total = shown, writer, total
        self._start, self._sent = time.monotonic(), -SECONDS_BETWEEN_METRICS
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
        if time.monotonic() - self._sent >= SECONDS_BETWEEN_METRICS:
            self.send()

    def send(self) -> None:
        """Send the counts to MLflow."""
        self._sent = time.monotonic()
        counts = {"sources": self.sources, "bytes": self.bytes, "rejected": self.rejected}
        rate = self._made / max(self._sent - self._start, 1e-6)
        left = {"seconds_left": (self._total - self.sources) / rate} if self._total is not None and rate else {}
        self._writer.log(self.shards, {**counts, "sources_per_second": rate, **left})


class Pending(NamedTuple):
    """What is remembered of a task until it is finished."""

    receipt: Path
    sources: int

    def __str__(self) -> str:
        return self.receipt.stem
