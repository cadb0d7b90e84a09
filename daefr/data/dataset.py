"""Faces as tensors: the datasets and loaders that the training stages and the measures read."""

import logging
import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from daefr.data.generations import await_shards
from daefr.data.manifest import DatasetManifest, Fetch, Shard, Split, load_manifest, read_shards
from daefr.data.order import BatchOrder, Position
from daefr.data.sample import StoredSample
from daefr.data.shards import ShardReader
from daefr.errors import UserError
from daefr.faces.components import flip_boxes
from daefr.images import Image, mirror
from daefr.tensors import from_8_bit

logger = logging.getLogger(__name__)

PROCESSES = multiprocessing.get_context("forkserver")
"""How processes that decode are started: never as a fork of one that has threads, CUDA or connections, whose copies of
locks and sockets do not work. They are forks of a server that has imported this module and done nothing else."""
PROCESSES.set_forkserver_preload([__name__])

Part = Literal["hq", "mild", "severe", "components"]
Batch = dict[str, torch.Tensor]
"""What the stage reads. `hq` and `lq`: (B, 3, R, R) float32 RGB in [-1, 1]. `components`: (B, 3, 4) float32, the boxes
of left eye, right eye and mouth, (x0, y0, x1, y1) in pixels."""
OPEN_SHARDS = 64
"""How many shards are kept open, which is more than training mixes at a time (`daefr.data.order`)."""


class FaceDataset(Dataset[Batch]):
    """The samples of one split, addressed by `Position`; decodes only the parts that it is asked for."""

    def __init__(
        self,
        folder: Path,
        split: Split,
        parts: Sequence[Part],
        *,
        seed: int = 0,
        flip: bool = False,
        draw: bool = False,
        refresh: int | None = None,
        check_digests: bool = False,
        fetch: Fetch | None = None,
    ) -> None:
        """Open the dataset in `folder`.

        `parts` names what to decode: `hq`, one kind of LQ image, which becomes `lq`, and the boxes of the facial
        components. With `flip` half of the samples are mirrored; with `draw` each gets one of its LQ variants, without
        always the first. Both are drawn from (seed, epoch, shard, sample) alone. After every `refresh` epochs the LQ
        variants are those of the next generation (`daefr.data.generations`). With `check_digests` every shard that is
        opened is read whole for that; `fetch` brings the shards where they are elsewhere. Raises `UserError` when the
        dataset lacks a part.
        """
        self._folder, self.manifest = folder, load_manifest(folder)
        self._parts, self._seed, self._refresh = tuple(parts), seed, refresh
        self._flip, self._draw = flip, draw
        self._check_digests, self._fetch = check_digests, fetch or self._beside
        self._readers: dict[tuple[int, int], ShardReader] = {}
        self._skipped = 0
        self._skipped_by_processes: Synchronized[int] | None = None
        for part in self._parts:
            if part in ("mild", "severe") and self.manifest.variants.get(part, 0) < 1:
                raise UserError(f"dataset {folder} has no {part} images; it has {', '.join(self.manifest.variants)}")
        if not self.manifest.samples(split):
            raise UserError(f"dataset {folder} has no {split} samples")
        if self.manifest.store is not None and fetch is None:
            raise UserError(f"the shards of {folder} are at {self.manifest.store}: copy them beside its manifest")
        self._shards = {0: list(read_shards(folder, self.manifest.listing(split)))}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the open shards, which a process that decodes opens for itself."""
        return self.__dict__ | {"_readers": {}}

    @property
    def sizes(self) -> list[int]:
        """The number of samples in each shard."""
        return [shard.samples for shard in self._shards[0]]

    @property
    def skipped(self) -> int:
        """How often a damaged sample was passed over until now, by this process and those that load for it."""
        return self._skipped + (self._skipped_by_processes.value if self._skipped_by_processes else 0)

    def count_in_processes(self) -> None:
        """Prepare for being copied into processes that decode, whose damaged samples this one counts too."""
        if self._skipped_by_processes is None:
            self._skipped_by_processes = PROCESSES.Value("q", 0)

    def __len__(self) -> int:
        """Return the number of samples."""
        return sum(self.sizes)

    def __getitem__(self, position: Position) -> Batch:
        """Return one sample, its images as (R, R, 3) uint8; see `Batch`.

        In the place of a damaged sample stands the next whole one of its shard. Raises `UserError` when there is none,
        or when the shard itself is missing or damaged.
        """
        size = self._shards[0][position.shard].samples
        for number in range(position.sample, position.sample + size):
            stand_in = position._replace(sample=number % size)
            try:
                return self._load(stand_in)
            except (ValueError, KeyError) as error:
                reader = self._reader(position.shard)
                logger.warning(
                    "%s: sample %s is damaged and passed over: %s", reader.path, reader.key(number % size), error
                )
                self._count_skipped()
        raise UserError(f"shard {self._reader(position.shard).path} is damaged: none of its samples can be read")

    def _count_skipped(self) -> None:
        if self._skipped_by_processes is None:
            self._skipped += 1
        else:
            with self._skipped_by_processes.get_lock():
                self._skipped_by_processes.value += 1

    def _load(self, position: Position) -> Batch:
        rng = np.random.default_rng([self._seed, *position])
        flip, choice = bool(rng.integers(2)) and self._flip, float(rng.random()) if self._draw else 0.0
        sample: Batch = {}
        for part in self._parts:
            if part == "components":
                boxes = self._sample(position).boxes()
                sample[part] = torch.from_numpy(flip_boxes(boxes, self.manifest.resolution) if flip else boxes)
                continue
            image = self._read(position, part, choice)
            sample["hq" if part == "hq" else "lq"] = torch.from_numpy(mirror(image) if flip else image)
        return sample

    def name(self, position: Position) -> str:
        """Return the key of a sample."""
        return self._sample(position).key

    def _read(self, position: Position, part: Part, choice: float) -> Image:
        side = self.manifest.resolution
        if part == "hq":
            image = self._sample(position).hq()
            if image.shape != (side, side, 3):
                raise ValueError(f"an image of {image.shape[1]}x{image.shape[0]} pixels")
            return image
        generation = position.epoch // self._refresh if self._refresh else 0
        return self._sample(position, generation).lq(part, int(choice * self.manifest.variants[part]), side)

    def _sample(self, position: Position, generation: int = 0) -> StoredSample:
        return StoredSample(self._reader(position.shard, generation), position.sample)

    def _reader(self, shard: int, generation: int = 0) -> ShardReader:
        key = generation, shard
        reader = self._readers.pop(key, None) or self._open(self._shards_of(generation)[shard])
        self._readers[key] = reader  # the last in order is the last that was used
        return reader

    def _shards_of(self, generation: int) -> list[Shard]:
        if generation not in self._shards:
            self._shards = {0: self._shards[0], generation: await_shards(self._folder, generation)}
        return self._shards[generation]

    def _open(self, shard: Shard) -> ShardReader:
        if len(self._readers) == OPEN_SHARDS:
            self._readers.pop(next(iter(self._readers))).close()
        with self._fetch(shard) as path:
            return ShardReader(path.parent, shard, check_digest=self._check_digests)

    def _beside(self, shard: Shard) -> AbstractContextManager[Path]:
        return nullcontext(self._folder / shard.name)


def training_batches(
    dataset: FaceDataset, *, seed: int, batch: int, rank: int, ranks: int, step: int, workers: int = 0
) -> Iterator[Batch]:
    """Yield this rank's part of every global batch from `step` on, without end. See `daefr.data.order`.

    The images are (B, R, R, 3) uint8, a quarter of what they take as a `Batch`, which `daefr.speed` makes of them on
    the device. `workers` is the number of processes that decode, 0 for none but this one.
    """
    order = BatchOrder(dataset.sizes, seed=seed, batch=batch, rank=rank, ranks=ranks, step=step)
    if workers:
        dataset.count_in_processes()
    loader = DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
        multiprocessing_context=PROCESSES if workers else None,
        worker_init_fn=_start_decoding,
    )
    try:
        yield from loader
    except UserError as error:  # of a process that decodes, its text is a traceback, and the last line what it said
        raise UserError(
            str(error).rstrip().splitlines()[-1].removeprefix(f"{UserError.__module__}.UserError: ")
        ) from None


def _start_decoding(worker: int) -> None:  # noqa: ARG001  # the loader gives it
    # as PyTorch's own operations in such a process: there are as many processes as there are cores for them
    cv2.setNumThreads(1)


def validation_batches(dataset: FaceDataset, *, batch: int, rank: int = 0, ranks: int = 1) -> Iterator[Batch]:
    """Yield every sample once, in the order of the shards, in batches; this rank gets every `ranks`-th batch.

    The batches are the same for any number of ranks: a contrastive loss depends on who shares a batch with whom.
    """
    positions = [Position(0, shard, sample) for shard, size in enumerate(dataset.sizes) for sample in range(size)]
    batches = [positions[start : start + batch] for start in range(0, len(positions), batch)]
    for loaded in DataLoader(dataset, batch_sampler=batches[rank::ranks]):
        yield {
            name: from_8_bit(part, torch.contiguous_format) if part.dtype == torch.uint8 else part
            for name, part in loaded.items()
        }


def check_resolution(manifest: DatasetManifest, resolution: int, where: str) -> None:
    """Raise `UserError` unless the dataset's images are of the side that the network is made for."""
    if manifest.resolution != resolution:
        raise UserError(f"{where}: the network takes {resolution} pixels, the dataset has {manifest.resolution}")
