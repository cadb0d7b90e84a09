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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import ray

import degradations
from daefr.config import Settings
from daefr.data import manifest as dataset_manifest
from daefr.data.components import component_boxes, template_landmarks
from daefr.data.images import MAX_PIXELS, encode_png
from daefr.data.manifest import DatasetManifest, Rejection, Shard, Split, count_reasons
from daefr.data.shards import Sample, file_digest, write_shard
from daefr.errors import UserError
from daefr.faces import find_detector
from pipelines import cluster
from pipelines.photographs import Photographs, take_faces
from pipelines.progress import bar
from pipelines.run import Run
from pipelines.sources import Face, Source, list_sources, sources_digest
from pipelines.steps import Committed, StepInput

VERSION = 2
DATASET = "dataset"


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
    max_pixels: int = MAX_PIXELS
    photographs: Photographs | None = None
    """How the sources become aligned crops, None where they are."""

    @property
    def receipt(self) -> Path:
        """Where the task records that its shard is finished."""
        return self.path.with_suffix(".json")


class Receipt(Settings):
    """What became of a task's sources. `shard` is None where none gave a sample; `fruitless` counts those that did not.

    A photograph can be in `rejected` several times, and give samples as well.
    """

    shard: Shard | None
    rejected: list[Rejection]
    fruitless: int


def make_shard(task: ShardTask) -> Receipt:
    """Degrade the task's faces and write its shard, then its receipt. Run again, it makes the same bytes."""
    cv2.setNumThreads(1)  # a task has one CPU
    rejected: list[Rejection] = []
    fruitless: list[Source] = []
    shard: Shard | None = write_shard(task.path, _samples(task, rejected, fruitless))
    if shard is not None and not shard.samples:
        task.path.unlink()
        shard = None
    receipt = Receipt(shard=shard, rejected=rejected, fruitless=len(fruitless))
    temporary = task.receipt.with_suffix(".tmp")
    temporary.write_text(receipt.model_dump_json())
    temporary.replace(task.receipt)
    return receipt


def _samples(task: ShardTask, rejected: list[Rejection], fruitless: list[Source]) -> Iterator[Sample]:
    for key, name, face in _faces(task, rejected, fruitless):
        sample: dict[str, str | bytes] = {"__key__": key, "hq.png": encode_png(face.image)}
        variants: dict[str, list[dict[str, Any]]] = {}
        hq = degradations.Face(face.image)
        for kind, recipe in task.recipes.items():
            generators = [_generator(task.seed, name, kind, index) for index in range(task.variants)]
            spoiled = [degradations.degrade(hq, degradations.get_recipe(recipe), rng) for rng in generators]
            sample |= {f"{kind}.{index}.{lq.suffix}": lq.file for index, lq in enumerate(spoiled)}
            variants[kind] = [lq.params for lq in spoiled]
        about = {
            "source": name,
            "sha256": face.sha256,
            "seed": task.seed,
            "landmarks": face.landmarks,
            # an aligned crop of unknown landmarks has them about where its alignment put them
            "components": component_boxes(face.landmarks or template_landmarks(task.resolution), task.resolution),
            "components_from": "landmarks" if face.landmarks else "template",
            "crop": face.crop,
            "variants": variants,
        }
        yield sample | {"json": json.dumps(about, sort_keys=True).encode()}


def _faces(task: ShardTask, rejected: list[Rejection], fruitless: list[Source]) -> Iterator[tuple[str, str, Face]]:
    """Yield key, name and face of every sample; a photograph's faces have the numbers of their names in their keys."""
    for number, source in enumerate(task.sources, task.first):
        faces, reasons = take_faces(source, task.photographs, task.resolution, task.max_pixels)
        rejected += reasons
        if not faces:
            fruitless.append(source)
        for name, face in faces.items():
            yield f"{number:08d}{name.removeprefix(source.name).replace('#', '-')}", name, face


def _generator(seed: int, source: str, kind: str, variant: int) -> np.random.Generator:
    """Return the generator of one LQ image, which depends on the source's name: no other face has a say in it."""
    name = int.from_bytes(hashlib.sha256(f"{source}/{kind}/{variant}".encode()).digest()[:8])
    return np.random.default_rng([seed, name])


def synthesize(run: Run) -> Committed:
    """Make the dataset of a run, or find it made."""
    sources = list_sources(run.config.data)
    settings = {
        "data": run.config.data.model_dump(mode="json", exclude={"max_rejected", "detector"}),
        "resolution": run.config.resolution,
        "seed": run.config.seed,
    }
    inputs = {"sources": StepInput(digest=sources_digest(sources), origin=run.config.data.faces)}
    if run.config.data.align:
        detector = find_detector(run.config.data.detector)
        inputs["detector"] = StepInput(digest=file_digest(detector), origin=str(detector))

    def work(folder: Path, run_id: str) -> tuple[dict[str, Any], list[str]]:
        tasks = _plan(run, folder / DATASET, sources)
        receipts = _make_all(run, [task for part in tasks.values() for task in part])
        made = _manifest(run, tasks, receipts)
        for left_by_a_killed_task in (folder / DATASET).glob("*.tmp"):
            left_by_a_killed_task.unlink()
        fruitless, total = sum(r.fruitless for r in receipts.values()), sum(len(part) for part in sources.values())
        _check_rejected(run, made, fruitless, total)
        path = folder / DATASET / dataset_manifest.NAME
        path.write_text(made.model_dump_json(indent=2) + "\n")
        outputs: dict[str, Any] = {
            "dataset": DATASET,
            "train_samples": made.samples("train"),
            "validation_samples": made.samples("validation"),
            "rejected": len(made.rejected),
            "bytes": sum(shard.bytes for shard in [*made.train, *made.validation]),
        }
        run.tracking.client.log_artifact(run_id, str(path), DATASET)
        with run.writer(run_id) as writer:
            writer.log(0, {name: float(value) for name, value in outputs.items() if name != "dataset"})
        return outputs, [
            f"{DATASET}/{dataset_manifest.NAME}",
            *(f"{DATASET}/{s.name}" for s in made.train + made.validation),
        ]

    return run.step("synthesize", VERSION, settings, inputs, work)


def _plan(run: Run, folder: Path, sources: dict[Split, list[Source]]) -> dict[Split, list[ShardTask]]:
    data = run.config.data
    photographs = Photographs(data.detector and data.detector.absolute(), data.filters) if data.align else None
    return {
        split: [
            ShardTask(
                path=folder / f"{split}-{start // data.shard_samples:06d}.tar",
                sources=part[start : start + data.shard_samples],
                first=start,
                resolution=run.config.resolution,
                recipes={"mild": data.mild, "severe": data.severe},
                # validation images are degraded once and for all
                variants=data.variants if split == "train" else 1,
                seed=run.config.seed,
                max_pixels=data.max_pixels,
                photographs=photographs,
            )
            for start in range(0, len(part), data.shard_samples)
        ]
        for split, part in sources.items()
    }


def _make_all(run: Run, tasks: list[ShardTask]) -> dict[Path, Receipt]:
    """Run the tasks that have no receipt yet, a bounded number at a time."""
    receipts = {task.path: receipt for task in tasks if (receipt := _finished(task)) is not None}
    waiting = [task for task in tasks if task.path not in receipts]
    done, total = sum(len(task.sources) for task in tasks if task.path in receipts), sum(len(t.sources) for t in tasks)
    if not waiting:
        return receipts
    cluster.connect()
    remote = ray.remote(make_shard).options(
        max_retries=run.config.compute.task_retries, num_gpus=cluster.gpu_share() if run.config.data.align else 0
    )
    limit = run.config.compute.tasks or 2 * max(1, int(cluster.cpus()))
    with bar("synthesize", total, "faces", done) as shown:
        flying: dict[Any, ShardTask] = {}
        while waiting or flying:
            while waiting and len(flying) < limit:
                task = waiting.pop(0)
                flying[remote.remote(task)] = task
            (ready, *_), _ = ray.wait(list(flying), num_returns=1)
            task = flying.pop(ready)
            receipts[task.path] = ray.get(ready)
            done += len(task.sources)
            shown.update(done)
    return receipts


def _finished(task: ShardTask) -> Receipt | None:
    try:
        receipt = Receipt.model_validate_json(task.receipt.read_text())
    except (FileNotFoundError, ValueError):
        return None
    if receipt.shard is None:
        return receipt
    whole = task.path.is_file() and task.path.stat().st_size == receipt.shard.bytes
    return receipt if whole else None


def _manifest(run: Run, tasks: dict[Split, list[ShardTask]], receipts: dict[Path, Receipt]) -> DatasetManifest:
    made = {split: [receipts[task.path] for task in part] for split, part in tasks.items()}
    shards = {split: [receipt.shard for receipt in part if receipt.shard] for split, part in made.items()}
    rejected = [rejection for part in made.values() for receipt in part for rejection in receipt.rejected]
    data = run.config.data
    return DatasetManifest(
        resolution=run.config.resolution,
        recipes={"mild": data.mild, "severe": data.severe},
        variants={"mild": data.variants, "severe": data.variants},
        seed=run.config.seed,
        train=shards["train"],
        validation=shards["validation"],
        rejected=rejected,
        reasons=count_reasons(rejected),
    )


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
