"""New generations of LQ images, made on idle CPUs while a training runs on the one before.

See `daefr.data.generations` for what a generation is. Its shards are a function of the dataset's, the recipes, the seed
and its number, so they are the same whenever, wherever and however often they are made.
"""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2

from daefr.data.dataset import Fetch
from daefr.data.generations import Generation, commit_of, companion, failure_of, find_generation, listing_of
from daefr.data.images import decode_image
from daefr.data.manifest import DatasetManifest, Shard, list_shards, load_manifest, read_shards
from daefr.data.shards import Sample, ShardReader, write_shard
from daefr.errors import UserError
from daefr.files import write_whole
from daefr.stages.config import TrainingConfig
from pipelines import cluster
from pipelines.errors import StepFailedError
from pipelines.progress import say
from pipelines.synthesis.plan import sizes_in, stored_sizes
from pipelines.synthesis.shards import degrade_face, local_place, store_file
from pipelines.tasks import run_tasks

NICENESS = 19


@dataclass(frozen=True)
class RefreshTask:
    """What one task makes: the companion, in one generation, of a shard of the dataset in a folder."""

    dataset: Path
    manifest: DatasetManifest
    shard: Shard
    generation: int
    fetch: Fetch | None
    """Brings the shard where it is not beside the manifest."""

    @property
    def path(self) -> Path:
        """Where the companion is, if it is not in the store."""
        return self.dataset / companion(self.shard, self.generation)

    @property
    def receipt(self) -> Path:
        """Where it is recorded that the companion is finished."""
        return self.path.with_suffix(".json")


def refresh_shard(task: RefreshTask) -> Shard:
    """Degrade a shard's faces anew, and write what they gave. Run again, it makes the same bytes."""
    os.nice(NICENESS)
    cv2.setNumThreads(1)
    before = _finished(task)
    with local_place(task.path, task.manifest.store) as path:
        if task.fetch is None:
            made = write_shard(path, _samples(task, ShardReader(task.dataset, task.shard)))
        else:
            with task.fetch(task.shard) as fetched:
                reader = ShardReader(fetched.parent, task.shard)
            made = write_shard(path, _samples(task, reader))
        if task.manifest.store is not None:
            store_file(path, task.manifest.store, replaces=before.sha256 if before else None)
    return made


def _samples(task: RefreshTask, reader: ShardReader) -> Iterator[Sample]:
    manifest = task.manifest
    (count,) = set(manifest.variants.values())
    for number in range(len(reader)):
        try:
            hq = decode_image(reader.read_only(number, "hq"))
            source = json.loads(reader.read(number, "json"))["source"]
        except (ValueError, KeyError) as error:
            raise UserError(f"shard {reader.path} is damaged: sample {reader.key(number)}: {error}") from None
        files, variants = degrade_face(
            hq, source, manifest.recipes, count, seed=manifest.seed, generation=task.generation
        )
        about = {"source": source, "seed": manifest.seed, "generation": task.generation, "variants": variants}
        yield {"__key__": reader.key(number), **files, "json": json.dumps(about, sort_keys=True).encode()}


def last_generation(dataset: Path, training: TrainingConfig, refresh: int | None) -> int:
    """Return the generation that the last step of a training sees, 0 where it stays with the first."""
    if not refresh or not training.last_step:
        return 0
    samples = load_manifest(dataset).samples("train")
    return (training.last_step * training.batch - 1) // samples // refresh


def digests(dataset: Path, generations: int) -> dict[int, str]:
    """Return the digests of what lists the shards of the generations 1 to `generations`."""
    found = {number: find_generation(dataset, number) for number in range(1, generations + 1)}
    return {number: generation.sha256 for number, generation in found.items() if generation is not None}


@contextmanager
def refreshing(dataset: Path, generations: int, fetch: Fetch | None, retries: int) -> Iterator[None]:
    """Make the generations 1 to `generations` of a dataset, those that are not there, while the block runs.

    Raises `StepFailedError` after the block when that failed; the block's training was told to stop waiting.
    """
    failure_of(dataset).unlink(missing_ok=True)
    stop, failures = threading.Event(), list[Exception]()

    def work() -> None:
        try:
            for number in range(1, generations + 1):
                if find_generation(dataset, number) is None and not stop.is_set():
                    _make(dataset, number, fetch, retries, stop)
        except Exception as error:  # whatever it is, the training must not wait for ever
            if not stop.is_set():
                failures.append(error)
                write_whole(failure_of(dataset), " ".join(str(error).split()))

    thread = threading.Thread(target=work, name="refresh", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        if failures:
            raise StepFailedError(f"new LQ images could not be made: {failures[0]}") from failures[0]


def _make(dataset: Path, number: int, fetch: Fetch | None, retries: int, stop: threading.Event) -> None:
    manifest = load_manifest(dataset)
    size_of = sizes_in(dataset) if manifest.store is None else stored_sizes(manifest.store).get

    def tasks() -> Iterator[RefreshTask]:
        return (RefreshTask(dataset, manifest, shard, number, fetch) for shard in read_shards(dataset, manifest.train))

    def unfinished() -> Iterator[tuple[Path, RefreshTask]]:
        for task in tasks():
            made = _finished(task)
            if made is None or size_of(made.name) != made.bytes:
                yield task.receipt, task

    idle = cluster.idle_cpus()
    made_now = run_tasks(
        refresh_shard,
        unfinished(),
        in_flight=max(1, int(idle)),
        retries=retries,
        cpus=1 if idle >= 1 else 0,  # where the training has all of them, it must not have to wait for one
        stop=stop,
        lasting=False,  # a nice process stays so, and must not be lent to other tasks
    )
    for receipt, made in made_now:
        write_whole(receipt, made.model_dump_json())
    if stop.is_set():
        return
    listing = list_shards(listing_of(dataset, number), (shard for task in tasks() if (shard := _finished(task))))
    generation = Generation(**listing.model_dump(), number=number, dataset=manifest.digest("train"))
    write_whole(commit_of(dataset, number), generation.model_dump_json(indent=2) + "\n")
    say(f"generation {number} of the LQ images is there")


def _finished(task: RefreshTask) -> Shard | None:
    try:
        return Shard.model_validate_json(task.receipt.read_text())
    except (FileNotFoundError, ValueError):
        return None
