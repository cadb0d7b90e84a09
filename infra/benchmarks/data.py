"""Measure the speed of making and reading samples, compared with a plain implementation.

The plain implementation degrades like the public reference: a full `filter2D` for every LQ image, repeated each time
that a sample is read, from a PNG file to float tensors. Our loader reads shards to 8-bit tensors, which the device
converts to floats. Both sides use the same random values and alternate on one core; times are CPU times.
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch

from daefr.data.dataset import Batch, FaceDataset, Part, training_batches
from daefr.data.manifest import write_dataset_manifest
from daefr.data.order import Position
from daefr.data.sample import FaceOrigin, encode_sample
from daefr.data.shards import Sample, write_shard
from daefr.errors import UserError
from daefr.images import Image, decode_image, encode_lossless, encode_png, shrink
from daefr.listing import walk
from daefr.photographs import ImageError, read_srgb
from daefr.portraits import draw_portrait
from daefr.tensors import to_tensor
from degradations import Degraded, Face, degrade, enlarge, get_recipe, replay
from degradations.chain import STEP_FUNCTIONS
from degradations.images import to_float, to_uint8
from degradations.jpeg import encode_jpeg
from degradations.kernels import gaussian_2d
from degradations.step import Params

RECIPES = {"mild": "daefr-mild", "severe": "daefr-severe"}
BATCH = 4
T = TypeVar("T")


@dataclass(frozen=True)
class SampleCosts:
    """The results. Rates are per second and core."""

    synthesis_speedup: float
    """Speed of degrading faces, relative to the plain implementation."""
    bytes_ratio: float
    """Size of a sample's images, relative to PNG files of the full resolution."""
    loader_speedup: float
    """Speed of reading samples of the restoration stage, relative to the plain implementation."""
    faces_per_second: float
    plain_faces_per_second: float
    samples_per_second: float
    plain_samples_per_second: float
    largest_difference: int
    """Largest difference of a pixel between both sides before the JPEG, in levels of 255."""


@dataclass(frozen=True)
class DegradedFace:
    """A face and its LQ images by kind."""

    face: Image
    variants: dict[str, list[Degraded]]

    @property
    def lqs(self) -> list[Degraded]:
        """The LQ images of all kinds."""
        return [lq for kind in self.variants.values() for lq in kind]


class Stopwatch:
    """Sums the CPU times of both sides."""

    def __init__(self) -> None:
        """Start at 0."""
        self.ours = self.plain = 0.0

    def time(self, work: Callable[[], T], *, ours: bool) -> T:
        """Run one side once and return what it returns."""
        start = time.process_time()
        result = work()
        spent = time.process_time() - start
        if ours:
            self.ours += spent
        else:
            self.plain += spent
        return result


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options; the defaults take about half a minute."""
    parser.add_argument("folder", metavar="FACES", type=Path, nargs="?", help="square crops (default: drawn portraits)")
    parser.add_argument("--faces", type=int, default=24, help="number of faces (default %(default)s)")
    parser.add_argument("--variants", type=int, default=4, help="LQ images per recipe (default %(default)s)")
    parser.add_argument("--resolution", type=int, default=512, help="side of the images (default %(default)s)")


def run(options: argparse.Namespace) -> int:
    """Measure and print one JSON object; return 0. Raises `UserError` if there are no faces."""
    for name in ("faces", "variants", "resolution"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name}={getattr(options, name)} must be at least 1")
    faces = list(itertools.islice(_faces(options.folder, options.resolution), options.faces))
    if not faces:
        raise UserError(f"{options.folder} has no square images of at least {options.resolution} pixels")
    with _one_core(), tempfile.TemporaryDirectory() as folder:
        costs = measure_samples(faces, options.variants, Path(folder))
    sys.stdout.write(json.dumps({name: round(value, 4) for name, value in asdict(costs).items()}, indent=2) + "\n")
    return 0


def _faces(folder: Path | None, resolution: int) -> Iterator[Image]:
    if folder is None:
        yield from (draw_portrait(seed, resolution).image for seed in itertools.count())
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder of square face crops")
    for found in walk(folder):
        try:
            image = read_srgb((folder / found.name).read_bytes() if found.kind == "image" else b"")
        except ImageError:
            continue
        if image.shape[0] == image.shape[1] >= resolution:
            yield shrink(image, resolution)


@contextmanager
def _one_core() -> Iterator[None]:
    threads = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads[0])
        torch.set_num_threads(threads[1])


def measure_samples(faces: list[Image], variants: int, folder: Path) -> SampleCosts:
    """Measure both sides on (R, R, 3) uint8 RGB faces; samples are written to `folder`."""
    _degrade(faces[:1], variants, Stopwatch())  # warm-up
    degrading = Stopwatch()
    degraded = _degrade(faces, variants, degrading)
    reading = Stopwatch()
    read = _read(degraded, folder, reading)
    return SampleCosts(
        synthesis_speedup=degrading.plain / degrading.ours,
        bytes_ratio=sum(map(_size, degraded)) / sum(map(_plain_size, degraded)),
        loader_speedup=reading.plain / reading.ours,
        faces_per_second=len(faces) / degrading.ours,
        plain_faces_per_second=len(faces) / degrading.plain,
        samples_per_second=read / reading.ours,
        plain_samples_per_second=read / reading.plain,
        largest_difference=max(_difference(each.face, lq.params["steps"]) for each in degraded for lq in each.lqs),
    )


def _degrade(faces: list[Image], variants: int, watch: Stopwatch) -> list[DegradedFace]:
    results = []
    for number, face in enumerate(faces):
        results.append(watch.time(lambda: degrade_face(face, variants, number), ours=True))  # noqa: B023  # called at once
        watch.time(lambda: [_degrade_plainly(face, lq.params["steps"]) for lq in results[-1].lqs], ours=False)  # noqa: B023
    return results


def degrade_face(face: Image, variants: int, number: int) -> DegradedFace:
    """Degrade a face as in a dataset; `number` seeds the random values."""
    shared = Face(face)
    return DegradedFace(
        face,
        {
            kind: [
                degrade(shared, get_recipe(name), np.random.default_rng([number, index])) for index in range(variants)
            ]
            for kind, name in RECIPES.items()
        },
    )


def _degrade_plainly(face: Image, steps: list[Params]) -> bytes:
    return encode_jpeg(_before_jpeg(face, steps), steps[-1]["quality"])


def _before_jpeg(face: Image, steps: list[Params]) -> Image:
    """Run the steps except for the last, the JPEG, with the reference's blur; returns (r, r, 3) uint8 RGB."""
    image = to_float(face)
    for step in steps[:-1]:
        values = {name: value for name, value in step.items() if name != "op"}
        if step["op"] == "blur":
            del values["kernel"]
            image = np.asarray(cv2.filter2D(image, -1, gaussian_2d(**values)), np.float32)
        else:
            image = STEP_FUNCTIONS[step["op"]](image, **values)
    return to_uint8(image)


def _difference(face: Image, steps: list[Params]) -> int:
    ours = decode_image(replay(face, {"steps": steps[:-1]}))
    return int(np.abs(ours.astype(int) - _before_jpeg(face, steps)).max())


def _size(degraded: DegradedFace) -> int:
    return len(encode_lossless(degraded.face)) + sum(len(lq.file) for lq in degraded.lqs)


def _plain_size(degraded: DegradedFace) -> int:
    images = [degraded.face, *(enlarge(decode_image(lq.file), degraded.face.shape[0]) for lq in degraded.lqs)]
    return sum(len(encode_png(image)) for image in images)


def _read(faces: list[DegradedFace], folder: Path, watch: Stopwatch) -> int:
    """Read every LQ image of the restoration stage once, on both sides; return the number of samples."""
    write_dataset(faces, folder)
    options: dict[str, Any] = {"parts": ("hq", "severe"), "flip": True, "draw": True}
    datasets = FaceDataset(folder, "train", **options), PlainDataset(faces, folder, "train", **options)
    ours, plain = (iter(training_batches(each, seed=0, batch=BATCH, rank=0, ranks=1, step=0)) for each in datasets)
    for each in (ours, plain):
        next(each)  # warm-up
    batches = max(1, len(faces) * len(faces[0].variants["severe"]) // BATCH)
    for _ in range(batches):
        watch.time(lambda: next(ours), ours=True)
        watch.time(lambda: next(plain), ours=False)
    return batches * BATCH


def write_dataset(faces: list[DegradedFace], folder: Path) -> None:
    """Write degraded faces as a dataset of one shard."""
    write_dataset_manifest(
        folder,
        resolution=faces[0].face.shape[0],
        recipes=RECIPES,
        variants={kind: len(lqs) for kind, lqs in faces[0].variants.items()},
        seed=0,
        train=[write_shard(folder / "train-000000.tar", (_sample(number, each) for number, each in enumerate(faces)))],
        validation=[],
    )


def _sample(number: int, degraded: DegradedFace) -> Sample:
    origin = FaceOrigin(source=str(number), sha256="", seed=0)
    return encode_sample(f"{number:08d}", degraded.face, degraded.variants, origin)


class PlainDataset(FaceDataset):
    """The same samples, degraded by the plain implementation on reading; images are (3, R, R) float32 in [-1, 1]."""

    def __init__(self, faces: list[DegradedFace], folder: Path, *arguments: Any, **options: Any) -> None:
        """Open the dataset in `folder` that `faces` was written to; other arguments are those of `FaceDataset`."""
        super().__init__(folder, *arguments, **options)
        self._faces = faces
        self._files = [folder / f"{number:08d}.png" for number in range(len(faces))]
        for file, each in zip(self._files, faces, strict=True):
            file.write_bytes(encode_png(each.face))

    def __getitem__(self, position: Position) -> Batch:
        """Return one sample."""
        return {name: to_tensor(image.numpy()) for name, image in super().__getitem__(position).items()}

    def _read(self, position: Position, part: Part, choice: float) -> Image:
        if part == "hq":
            self._hq = decode_image(self._files[position.sample].read_bytes())
            return self._hq
        lqs = self._faces[position.sample].variants[part]
        steps = lqs[int(choice * len(lqs))].params["steps"]
        return enlarge(decode_image(_degrade_plainly(self._hq, steps)), self._hq.shape[0])
