"""Faces as tensors: the datasets and loaders that the training stages and the measures read."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from daefr.data.components import COMPONENTS, Boxes, flip_boxes
from daefr.data.images import Image, decode_image, to_tensor
from daefr.data.manifest import DatasetManifest, Shard, Split, load_manifest
from daefr.data.order import BatchOrder, Position
from daefr.data.shards import ShardReader
from daefr.errors import UserError
from degradations import enlarge

Part = Literal["hq", "mild", "severe", "components"]
Batch = dict[str, torch.Tensor]
"""What the stage reads. `hq` and `lq`: (B, 3, R, R) float32 RGB in [-1, 1]. `components`: (B, 3, 4) float32, the boxes
of left eye, right eye and mouth, (x0, y0, x1, y1) in pixels."""
Fetch = Callable[[Shard], AbstractContextManager[Path]]
"""Gives the local path of a shard while a block runs: how shards are read that are not beside their manifest."""

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
        fetch: Fetch | None = None,
    ) -> None:
        """Open the dataset in `folder`.

        `parts` names what to decode: `hq`, one kind of LQ image, which becomes `lq`, and the boxes of the facial
        components. With `flip` half of the samples are mirrored; with `draw` each gets one of its LQ variants, without
        always the first. Both are drawn from (seed, epoch, shard, sample) alone. `fetch` brings the shards where they
        are elsewhere. Raises `UserError` when the dataset lacks a part.
        """
        self._folder, self.manifest = folder, load_manifest(folder)
        self._split, self._parts, self._seed = split, tuple(parts), seed
        self._flip, self._draw, self._fetch = flip, draw, fetch or self._beside
        self._readers: dict[int, ShardReader] = {}
        for part in self._parts:
            if part in ("mild", "severe") and self.manifest.variants.get(part, 0) < 1:
                raise UserError(f"dataset {folder} has no {part} images; it has {', '.join(self.manifest.variants)}")
        if not self.manifest.samples(split):
            raise UserError(f"dataset {folder} has no {split} samples")
        if self.manifest.store is not None and fetch is None:
            raise UserError(f"the shards of {folder} are at {self.manifest.store}: copy them beside its manifest")

    @property
    def sizes(self) -> list[int]:
        """The number of samples in each shard."""
        return [shard.samples for shard in self.manifest.shards(self._split)]

    def __len__(self) -> int:
        """Return the number of samples."""
        return sum(self.sizes)

    def __getitem__(self, position: Position) -> Batch:
        """Return one sample; see `Batch`."""
        rng = np.random.default_rng([self._seed, *position])
        flip, choice = bool(rng.integers(2)) and self._flip, float(rng.random()) if self._draw else 0.0
        sample: Batch = {}
        for part in self._parts:
            if part == "components":
                boxes = self._boxes(position)
                sample[part] = torch.from_numpy(flip_boxes(boxes, self.manifest.resolution) if flip else boxes)
                continue
            image = self._read(position, part, choice)
            sample["hq" if part == "hq" else "lq"] = to_tensor(image[:, ::-1] if flip else image)
        return sample

    def name(self, position: Position) -> str:
        """Return the key of a sample."""
        return self._reader(position.shard).key(position.sample)

    def _read(self, position: Position, part: Part, choice: float) -> Image:
        reader = self._reader(position.shard)
        if part == "hq":
            return decode_image(reader.read(position.sample, "hq.png"))
        variant = int(choice * self.manifest.variants[part])
        # a JPEG or a PNG, as its recipe ends
        (name,) = (field for field in reader.fields(position.sample) if field.startswith(f"{part}.{variant}."))
        small = decode_image(reader.read(position.sample, name))
        return enlarge(small, self.manifest.resolution)

    def _boxes(self, position: Position) -> Boxes:
        reader = self._reader(position.shard)
        boxes = json.loads(reader.read(position.sample, "json")).get("components")
        if boxes is None:
            raise UserError(
                f"{reader.path}: sample {reader.key(position.sample)} has no component boxes: make the dataset again, "
                "or turn the component discriminators off with components.weight=0"
            )
        return np.array([boxes[name] for name in COMPONENTS], np.float32)

    def _reader(self, shard: int) -> ShardReader:
        reader = self._readers.pop(shard, None) or self._open(self.manifest.shards(self._split)[shard])
        self._readers[shard] = reader  # the last in order is the last that was used
        return reader

    def _open(self, shard: Shard) -> ShardReader:
        if len(self._readers) == OPEN_SHARDS:
            self._readers.pop(next(iter(self._readers))).close()
        with self._fetch(shard) as path:
            return ShardReader(path.parent, shard)

    def _beside(self, shard: Shard) -> AbstractContextManager[Path]:
        return nullcontext(self._folder / shard.name)


def training_batches(
    dataset: FaceDataset, *, seed: int, batch: int, rank: int, ranks: int, step: int, workers: int = 0
) -> Iterator[Batch]:
    """Yield this rank's part of every global batch from `step` on, without end. See `daefr.data.order`.

    `workers` is the number of processes that decode, 0 for none but this one.
    """
    order = BatchOrder(dataset.sizes, seed=seed, batch=batch, rank=rank, ranks=ranks, step=step)
    try:
        yield from DataLoader(
            dataset,
            batch_sampler=order,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=4 if workers else None,
        )
    except UserError as error:
        # from a process that decodes, it comes with that process's traceback, whose last line it is
        raise UserError(str(error).strip().splitlines()[-1].partition("UserError: ")[2] or str(error)) from None


def validation_batches(dataset: FaceDataset, *, batch: int, rank: int = 0, ranks: int = 1) -> Iterable[Batch]:
    """Yield every sample once, in the order of the shards, in batches; this rank gets every `ranks`-th batch.

    The batches are the same for any number of ranks: a contrastive loss depends on who shares a batch with whom.
    """
    positions = [Position(0, shard, sample) for shard, size in enumerate(dataset.sizes) for sample in range(size)]
    batches = [positions[start : start + batch] for start in range(0, len(positions), batch)]
    return DataLoader(dataset, batch_sampler=batches[rank::ranks])


def check_resolution(manifest: DatasetManifest, resolution: int, where: str) -> None:
    """Raise `UserError` unless the dataset's images are of the side that the network is made for."""
    if manifest.resolution != resolution:
        raise UserError(f"{where}: the network takes {resolution} pixels, the dataset has {manifest.resolution}")
