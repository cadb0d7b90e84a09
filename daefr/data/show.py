"""What a dataset holds, for people: figures in lines of text, and a contact sheet of some of its faces."""

import textwrap
from collections.abc import Iterator
from itertools import count, islice, takewhile
from pathlib import Path

import cv2
import numpy as np

from daefr.data.generations import find_generation
from daefr.data.manifest import DatasetManifest, Shard, load_manifest, read_rejected, read_shards
from daefr.data.sample import StoredSample
from daefr.data.shards import ShardReader
from daefr.faces.components import COMPONENTS
from daefr.images import Image

CELL = 192
LINE = 15
LETTERS = 28
EXAMPLES = 3
COLOURS = {"left_eye": (255, 220, 0), "right_eye": (0, 220, 255), "mouth": (255, 0, 200)}


def describe_dataset(dataset: Path) -> list[str]:
    """Return the lines that tell a dataset's sizes and counts, and what was rejected."""
    made = load_manifest(dataset)
    kinds = ", ".join(f"{number} {kind} ({made.recipes[kind]})" for kind, number in made.variants.items())
    lines = [
        f"{made.resolution}x{made.resolution} pixels, LQ images of a training face: {kinds}; seed {made.seed}",
        f"shards: {made.store or dataset}",
    ]
    for split in ("train", "validation"):
        listing = made.listing(split)
        each = f", {listing.bytes / listing.samples / 1e3:.1f} KB a sample" if listing.samples else ""
        size = f"{listing.bytes / 1e6:.1f} MB{each}"
        lines.append(f"{split}: {listing.samples} samples in {listing.entries} shards, {size}")
    for generation in takewhile(bool, (find_generation(dataset, number) for number in count(1))):
        assert generation is not None  # noqa: S101  # takewhile ends there
        lines.append(f"generation {generation.number}: {generation.entries} shards, {generation.bytes / 1e6:.1f} MB")
    lines.append(f"rejected: {made.rejected.entries}")
    lines += [f"  {number} {reason}{_examples(dataset, made, reason)}" for reason, number in made.reasons.items()]
    return lines


def _examples(dataset: Path, made: DatasetManifest, reason: str) -> str:
    entries = (f"{entry.source} ({entry.reason})" for entry in read_rejected(dataset, made) if entry.kind == reason)
    return f", such as {'; '.join(islice(entries, EXAMPLES))}"


def draw_dataset_sheet(dataset: Path, faces: int) -> Image | None:
    """Return the first training faces that are here, (H, W, 3) uint8 RGB, None where no shard is.

    A row a face: HQ with the boxes of its components, then all of its LQ images, enlarged as a network sees them.
    """
    rows: list[Image] = []
    for reader in _readers(dataset):
        for number in range(min(len(reader), faces - len(rows))):
            rows.append(_row(StoredSample(reader, number)))
    return np.concatenate(rows) if rows else None


def _readers(dataset: Path) -> Iterator[ShardReader]:
    shards: Iterator[Shard] = read_shards(dataset, load_manifest(dataset).train)
    return (ShardReader(dataset, shard) for shard in shards if (dataset / shard.name).exists())


def _row(sample: StoredSample) -> Image:
    metadata, hq = sample.metadata(), sample.hq()
    label = [metadata["source"], f"boxes from {metadata['components_from']}"]
    cells = [_cell(_with_boxes(hq, metadata["components"]), label)]
    for kind, variants in metadata["variants"].items():
        for variant, params in enumerate(variants):
            size = len(sample.lq_file(kind, variant)) / 1e3
            label = [f"{kind} {variant}", f"{params['side']} px, {size:.1f} KB"]
            cells.append(_cell(sample.lq(kind, variant, len(hq)), label))
    return np.concatenate(cells, axis=1)


def _with_boxes(hq: Image, boxes: dict[str, list[float]]) -> Image:
    scale = CELL / hq.shape[0]
    shown = _fit(hq)
    for name in COMPONENTS:
        left, top, right, bottom = (round(place * scale) for place in boxes[name])
        cv2.rectangle(shown, (left, top), (right - 1, bottom - 1), COLOURS[name], 1)
    return shown


def _fit(image: Image) -> Image:
    method = cv2.INTER_AREA if image.shape[0] > CELL else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(image, (CELL, CELL), interpolation=method), np.uint8)


def _cell(image: Image, label: list[str]) -> Image:
    cell = cv2.copyMakeBorder(_fit(image), 0, 2 * LINE + 4, 0, 2, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    for number, line in enumerate(label, start=1):
        text = textwrap.shorten(line, LETTERS, placeholder="...") if " " in line else line[-LETTERS:]
        # OpenCV's letters are ASCII
        text = text.encode("ascii", "replace").decode()
        cv2.putText(
            cell, text, (3, CELL + LINE * number - 2), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA
        )
    return np.asarray(cell, np.uint8)
