"""Generations of LQ images: which one a step sees, and trainings that go on among them."""

import threading
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from daefr.checkpoint import load_checkpoint
from daefr.data.dataset import Batch, FaceDataset, training_batches
from daefr.data.generations import Generation, commit_of, companion, failure_of, listing_of
from daefr.data.manifest import list_shards, load_manifest, read_shards
from daefr.data.order import Position
from daefr.data.shards import write_shard
from daefr.errors import UserError
from daefr.training.loop import train
from daefr.training.reporter import FolderReporter
from tests.daefr import tiny


def _write_generation(dataset: Path, number: int) -> None:
    """Write a generation in which every LQ image is of the gray level of its number."""
    made, shards = load_manifest(dataset), []
    gray = tiny.encode_jpeg(np.full((tiny.SIDE, tiny.SIDE, 3), 40 * number, np.uint8), 4)
    for shard in read_shards(dataset, made.train):
        names = [f"{kind}.{variant}.jpg" for kind in made.variants for variant in range(2)]
        samples = [{"__key__": f"{sample:03d}", **dict.fromkeys(names, gray)} for sample in range(shard.samples)]
        shards.append(write_shard(dataset / companion(shard, number), samples))
    listing = list_shards(listing_of(dataset, number), shards)
    generation = Generation(**listing.model_dump(), number=number, dataset=made.digest("train"))
    commit_of(dataset, number).write_text(generation.model_dump_json())


def _levels(batches: list[Batch]) -> list[int]:
    """The gray levels of all LQ images, those of the first generation as -1."""
    images = [image for batch in batches for image in batch["lq"]]
    return [int(image.float().mean().round()) if image.float().std() < 1 else -1 for image in images]


def test_which_generation_is_seen_follows_from_the_step(tmp_path: Path) -> None:
    tiny.write_dataset(tmp_path)
    for number in (1, 2):
        _write_generation(tmp_path, number)
    plain, faces = (FaceDataset(tmp_path, "train", ("hq", "mild"), draw=True, refresh=n) for n in (None, 2))
    total = sum(tiny.TRAIN_SIZES)

    def batches(dataset: FaceDataset, step: int = 0) -> list[Batch]:
        loaded = training_batches(dataset, seed=1, batch=3, rank=0, ranks=1, step=step)
        return list(islice(loaded, 2 * total - step))

    seen = batches(faces)
    assert _levels(seen) == [-1] * 2 * total + [40] * 2 * total + [80] * 2 * total
    assert all(torch.equal(a["hq"], b["hq"]) for a, b in zip(seen, batches(plain), strict=True)), "HQ stays as it is"
    assert all(
        all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(batches(faces, step=total), seen[total:], strict=True)
    )


def test_a_training_waits_for_a_generation_or_is_told_why_there_is_none(tmp_path: Path) -> None:
    tiny.write_dataset(tmp_path)
    faces = FaceDataset(tmp_path, "train", ("mild",), refresh=1)
    maker = threading.Timer(1.0, _write_generation, (tmp_path, 1))
    maker.start()
    assert _levels([{"lq": faces[Position(1, 0, 0)]["lq"][None]}]) == [40]
    maker.join()
    failure_of(tmp_path).write_text("the disk is full")
    assert _levels([{"lq": faces[Position(1, 0, 0)]["lq"][None]}]) == [40], "what is there can be used"
    with pytest.raises(UserError, match="generation 2 of the LQ images could not be made: the disk is full"):
        faces[Position(2, 0, 0)]


def test_a_continued_training_sees_the_generations_of_an_uninterrupted_one(tmp_path: Path) -> None:
    dataset = tiny.write_dataset(tmp_path / "dataset")
    for number in (1, 2):
        _write_generation(dataset, number)
    steps = sum(tiny.TRAIN_SIZES) // 4 * 3  # three epochs of batches of 4

    def trained(name: str, steps: int, refresh: int | None = 1, after: Path | None = None) -> Path:
        reporter = FolderReporter(tmp_path / name)
        resume = load_checkpoint(after) if after else None
        settings = tiny.settings("restoration", steps=steps)
        train(tiny.build("restoration"), settings, dataset, reporter, refresh=refresh, resume=resume)
        found = reporter.resume()
        assert found is not None
        return found.path

    straight = trained("straight", steps)
    resumed = trained("resumed", steps, after=trained("stopped", steps // 3 + 1))
    stale = trained("stale", steps, refresh=None)
    one, two, other = (load_checkpoint(path).tensors() for path in (straight, resumed, stale))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one), "new LQ images make another model"
