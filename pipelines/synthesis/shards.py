"""One task makes one shard, a function of its sources, the recipes and the seed."""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import degradations
from daefr.config import Settings
from daefr.data.components import component_boxes, template_landmarks
from daefr.data.images import MAX_PIXELS, Image, encode_lossless
from daefr.data.manifest import Rejection, Shard
from daefr.data.shards import Sample, file_digest, write_shard
from daefr.errors import UserError
from pipelines.storage import s3
from pipelines.synthesis.photographs import Photographs, take_faces
from pipelines.synthesis.sources import Face, Source, SourcesDigest


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
    store: str | None = None
    """The address on S3 below which the shard belongs instead, under the same name."""
    before: str | None = None
    """The digest of the shard that was recorded there of other sources, which may be replaced."""

    @property
    def receipt(self) -> Path:
        """Where it is recorded that the task's shard is finished."""
        return self.path.with_suffix(".json")


class Receipt(Settings):
    """What became of a task's sources, whose digest is `sources`.

    `shard` is None where none gave a sample; `fruitless` counts those that did not. A photograph can be in `rejected`
    several times, and give samples as well.
    """

    sources: str
    shard: Shard | None
    rejected: list[Rejection]
    fruitless: int


def make_shard(task: ShardTask) -> Receipt:
    """Degrade the task's faces, write its shard, and return its receipt. Run again, it makes the same bytes."""
    cv2.setNumThreads(1)  # a task has one CPU
    rejected: list[Rejection] = []
    fruitless: list[Source] = []
    with local_place(task.path, task.store) as path:
        shard: Shard | None = write_shard(path, _samples(task, rejected, fruitless))
        if shard is not None and not shard.samples:
            path.unlink()
            shard = None
        if shard is not None and task.store is not None:
            store_file(path, task.store, replaces=task.before)
    sources = SourcesDigest.of(task.sources)
    return Receipt(sources=sources, shard=shard, rejected=rejected, fruitless=len(fruitless))


@contextmanager
def local_place(path: Path, store: str | None) -> Iterator[Path]:
    """Give the place where a shard is written: its own, or one that is there until the shard is uploaded."""
    if store is None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="daefr-") as folder:
        yield Path(folder) / path.name


def store_file(path: Path, store: str, replaces: str | None = None) -> None:
    """Upload a file to a store, where there is none of its name, the same, or what was recorded there before.

    Raises `UserError` where there is another, which stays as it is.
    """
    address = f"{store}/{path.name}"
    try:
        found = s3.find(address)
        there = None if found is None else s3.digest(found)
        if there is None:
            s3.write(address, path)
        elif there == replaces and found is not None:
            s3.write(address, path, found.etag)
        elif there != file_digest(path):
            raise FileExistsError
    except FileExistsError:
        raise UserError(
            f"{address} already exists and is not what was recorded in this run directory: "
            "move it, or give another data.store"
        ) from None


def _samples(task: ShardTask, rejected: list[Rejection], fruitless: list[Source]) -> Iterator[Sample]:
    for key, name, face in _faces(task, rejected, fruitless):
        files, variants = degrade_face(face.image, name, task.recipes, task.variants, seed=task.seed)
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
        hq: dict[str, str | bytes] = {"__key__": key, "hq.webp": encode_lossless(face.image)}
        yield hq | files | {"json": json.dumps(about, sort_keys=True).encode()}


def degrade_face(
    hq: Image, name: str, recipes: dict[str, str], count: int, *, seed: int, generation: int = 0
) -> tuple[dict[str, bytes], dict[str, list[dict[str, Any]]]]:
    """Return the files of a face's LQ images by their names in a sample, and the values of each by kind."""
    face = degradations.Face(hq)
    files: dict[str, bytes] = {}
    variants: dict[str, list[dict[str, Any]]] = {}
    for kind, recipe in recipes.items():
        generators = [_generator(seed, name, kind, index, generation) for index in range(count)]
        spoiled = [degradations.degrade(face, degradations.get_recipe(recipe), rng) for rng in generators]
        files |= {f"{kind}.{index}.{lq.suffix}": lq.file for index, lq in enumerate(spoiled)}
        variants[kind] = [lq.params for lq in spoiled]
    return files, variants


def _faces(task: ShardTask, rejected: list[Rejection], fruitless: list[Source]) -> Iterator[tuple[str, str, Face]]:
    """Yield key, name and face of every sample; a photograph's faces have the numbers of their names in their keys."""
    for number, source in enumerate(task.sources, task.first):
        faces, reasons = take_faces(source, task.photographs, task.resolution, task.max_pixels)
        rejected += reasons
        if not faces:
            fruitless.append(source)
        for name, face in faces.items():
            yield f"{number:08d}{name.removeprefix(source.name).replace('#', '-')}", name, face


def _generator(seed: int, source: str, kind: str, variant: int, generation: int) -> np.random.Generator:
    """Return the generator of one LQ image, which depends on the source's name: no other face has a say in it."""
    image = f"{source}/{kind}/{variant}" + (f"/{generation}" if generation else "")
    name = int.from_bytes(hashlib.sha256(image.encode(errors="surrogateescape")).digest()[:8])
    return np.random.default_rng([seed, name])
