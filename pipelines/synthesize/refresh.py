"""New generations of LQ images, made on idle CPUs while a training runs on the one before.

See `daefr.data.generations` for what a generation is. Its shards are a function of the dataset's, the recipes, the seed
and its number, so they are the same whenever, wherever and however often they are made.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2

from daefr.data.generations import Generation, commit_of, companion, failure_of, find_generation, listing_of
from daefr.data.manifest import DatasetManifest, Fetch, Shard, list_shards, load_manifest, read_shards
from daefr.data.sample import StoredSample, encode_variants
from daefr.data.shards import Sample, ShardReader, write_shard
from daefr.errors import UserError, one_line
from daefr.files import write_atomically
from daefr.settings.training import TrainingConfig
from pipelines.engine import cluster
from pipelines.engine.progress import say
from pipelines.engine.tasks import run_tasks
from pipelines.errors import StepFailedError
from pipelines.synthesize.plan import sizes_in, stored_sizes
from pipelines.synthesize.shards import degrade_face, local_place, store_file

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
    for index in range(len(reader)):
        sample = StoredSample(reader, index)
        try:
            hq, source = sample.hq(), sample.metadata()["source"]
        except (ValueError, KeyError) as error:
            raise UserError(f"shard {reader.path} is damaged: sample {sample.key}: {error}") from None
        variants = degrade_face(hq, source, manifest.recipes, count, seed=manifest.seed, generation=task.generation)
        yield encode_variants(sample.key, variants, source, manifest.seed, task.generation)


@dataclass(frozen=True)
class Refresh:
    """The generations of LQ images that one training sees, each of which replaces the one before after `epochs`."""

    dataset: Path
    epochs: int
    generations: int
    """The last generation that the training sees; 0 is the dataset itself."""
    fetch: Fetch | None
    retries: int

    @classmethod
    def during(
        cls, training: TrainingConfig, epochs: int, dataset: Path, fetch: Fetch | None, retries: int
    ) -> "Refresh":
        """Return the generations that a training sees, whose length is given in steps."""
        samples, seen = load_manifest(dataset).samples("train"), training.last_step * training.global_batch_size
        return cls(dataset, epochs, (seen - 1) // samples // epochs if seen else 0, fetch, retries)

    def digests(self) -> dict[int, str]:
        """Return the digests of what lists the shards of each generation that was made."""
        numbers = range(1, self.generations + 1)
        found = {number: find_generation(self.dataset, number) for number in numbers}
        return {number: generation.sha256 for number, generation in found.items() if generation is not None}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Make the generations that do not exist yet while the block runs.

        Raises `StepFailedError` after the block when that failed; the block's training was told to stop waiting.
        """
        failure_of(self.dataset).unlink(missing_ok=True)
        stop, failures = threading.Event(), list[Exception]()

        def work() -> None:
            try:
                for number in range(1, self.generations + 1):
                    if find_generation(self.dataset, number) is None and not stop.is_set():
                        self._make(number, stop)
            except Exception as error:  # whatever it is, the training must not wait for ever
                if not stop.is_set():
                    failures.append(error)
                    write_atomically(failure_of(self.dataset), one_line(error))

        thread = threading.Thread(target=work, name="refresh", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            if failures:
                raise StepFailedError(f"new LQ images could not be made: {failures[0]}") from failures[0]

    def _make(self, number: int, stop: threading.Event) -> None:
        manifest = load_manifest(self.dataset)
        size_of = sizes_in(self.dataset) if manifest.store is None else stored_sizes(manifest.store).get

        def tasks() -> Iterator[RefreshTask]:
            for shard in read_shards(self.dataset, manifest.train):
                yield RefreshTask(self.dataset, manifest, shard, number, self.fetch)

        def unfinished() -> Iterator[tuple[Path, RefreshTask]]:
            for task in tasks():
                made = _finished(task)
                if made is None or size_of(made.name) != made.bytes:
                    yield task.receipt, task

        idle = cluster.idle_cpus()
        made_now = run_tasks(
            refresh_shard,
            unfinished(),
            max_in_flight=max(1, int(idle)),
            retries=self.retries,
            cpus=1 if idle >= 1 else 0,  # where the training has all of them, it must not have to wait for one
            stop=stop,
            reuse_workers=False,  # a nice process stays so, and must not run other tasks
        )
        for receipt, made in made_now:
            write_atomically(receipt, made.model_dump_json())
        if stop.is_set():
            return
        shards = (shard for task in tasks() if (shard := _finished(task)))
        listing = list_shards(listing_of(self.dataset, number), shards)
        generation = Generation(**listing.model_dump(), number=number, dataset=manifest.digest("train"))
        write_atomically(commit_of(self.dataset, number), generation.model_dump_json(indent=2) + "\n")
        say(f"generation {number} of the LQ images is complete")


def _finished(task: RefreshTask) -> Shard | None:
    try:
        return Shard.model_validate_json(task.receipt.read_text())
    except (FileNotFoundError, ValueError):
        return None
