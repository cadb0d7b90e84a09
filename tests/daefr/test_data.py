"""Shards, the order of the samples, and the samples themselves."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import webdataset

from daefr.data.dataset import Batch, FaceDataset, check_resolution, training_batches, validation_batches
from daefr.data.manifest import NAME, Shard, load_manifest, read_rejected, read_shards, write_dataset_manifest
from daefr.data.order import BatchOrder, Position
from daefr.data.shards import Sample, ShardReader, write_shard
from daefr.errors import UserError
from daefr.faces.rejection import Rejection
from daefr.files import file_digest
from daefr.images import decode_image, encode_lossless, encode_png
from daefr.tensors import from_8_bit, to_image, to_tensor
from tests.daefr import tiny

UNEVEN = (3, 1, 7, 2, 5, 4)
TOTAL = sum(UNEVEN)


@pytest.mark.parametrize("side", [1, 16, 77])
def test_an_image_survives_its_files_and_the_tensor_form(side: int) -> None:
    image = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    assert np.array_equal(decode_image(encode_png(image)), image)
    assert np.array_equal(decode_image(encode_lossless(image)), image)
    assert np.array_equal(to_image(to_tensor(image)), image)
    assert torch.equal(from_8_bit(torch.from_numpy(image)[None], torch.contiguous_format), to_tensor(image)[None])


@pytest.mark.parametrize("data", [b"", b"nothing", encode_png(tiny.face(np.random.default_rng(0)))[:40]])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a readable image"):
        decode_image(data)


def test_equal_samples_give_equal_bytes(tmp_path: Path) -> None:
    first = write_shard(tmp_path / "a" / "0.tar", tiny.samples(3, 7))
    second = write_shard(tmp_path / "b" / "0.tar", tiny.samples(3, 7))
    other = write_shard(tmp_path / "c" / "0.tar", tiny.samples(3, 8))
    assert (tmp_path / "a" / "0.tar").read_bytes() == (tmp_path / "b" / "0.tar").read_bytes()
    assert first == second
    assert first.sha256 != other.sha256
    assert first.samples == 3
    assert first.sha256 == file_digest(tmp_path / "a" / "0.tar")
    assert first.bytes == (tmp_path / "a" / "0.tar").stat().st_size


def test_a_shard_that_could_not_be_finished_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> Iterator[Sample]:
        yield from tiny.samples(2, 0)
        raise RuntimeError("the source broke off")

    with pytest.raises(RuntimeError, match="the source broke off"):
        write_shard(tmp_path / "0.tar", failing())
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_shard_that_was_there(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "0.tar", tiny.samples(2, 0))
    with pytest.raises(ZeroDivisionError):
        write_shard(tmp_path / "0.tar", ({"__key__": str(1 // 0)} for _ in range(1)))
    assert file_digest(tmp_path / "0.tar") == shard.sha256


def test_webdataset_reads_the_same_samples(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "0.tar", tiny.samples(3, 7))
    expected = [dict(sample) for sample in tiny.samples(3, 7)]
    read = list(webdataset.WebDataset(str(tmp_path / "0.tar"), shardshuffle=False))
    assert [{name: sample[name] for name in sample if name in expected[0]} for sample in read] == expected
    reader = ShardReader(tmp_path, shard)
    assert len(reader) == 3
    for index, sample in enumerate(expected):
        assert reader.key(index) == sample.pop("__key__")
        assert {field: reader.read(index, field) for field in reader.fields(index)} == sample


@pytest.fixture
def written(tmp_path: Path) -> Shard:
    return write_shard(tmp_path / "0.tar", tiny.samples(3, 7))


def test_a_missing_shard_is_refused(tmp_path: Path, written: Shard) -> None:
    (tmp_path / "0.tar").unlink()
    with pytest.raises(UserError, match=r"0\.tar is missing"):
        ShardReader(tmp_path, written)


@pytest.mark.parametrize("share", [0, 0.3, 0.6, 0.95])
def test_a_truncated_shard_is_refused(tmp_path: Path, written: Shard, share: float) -> None:
    data = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match=r"0\.tar is damaged"):
        ShardReader(tmp_path, written)


def test_a_shard_of_other_samples_is_refused(tmp_path: Path, written: Shard) -> None:
    write_shard(tmp_path / "0.tar", tiny.samples(4, 7))
    with pytest.raises(UserError, match=r"0\.tar is damaged"):
        ShardReader(tmp_path, written)


def test_a_shard_with_one_altered_byte_is_refused(tmp_path: Path, written: Shard) -> None:
    data = bytearray((tmp_path / "0.tar").read_bytes())
    data[data.index(b"RIFF") + 60] ^= 1
    (tmp_path / "0.tar").write_bytes(data)
    with pytest.raises(UserError, match=r"0\.tar is damaged: it does not have the digest"):
        ShardReader(tmp_path, written, check_digest=True)


def test_a_folder_without_manifest_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a dataset: it has no manifest\.json"):
        load_manifest(tmp_path)


def test_what_is_listed_beside_the_manifest_is_checked_when_it_is_read(dataset: Path, tmp_path: Path) -> None:
    shards = list(read_shards(dataset, load_manifest(dataset).train))
    rejected = [Rejection(source=f"{number}.png", reason=f"too small: {number} pixels") for number in range(3)]
    made = write_dataset_manifest(
        tmp_path,
        resolution=16,
        recipes={},
        variants={},
        seed=0,
        train=iter(shards),
        validation=[],
        rejected=iter(rejected),
    )
    assert load_manifest(tmp_path) == made
    assert made.reasons == {"too small": 3}
    assert made.samples("train") == sum(shard.samples for shard in shards)
    assert list(read_shards(tmp_path, made.train)) == shards
    assert list(read_rejected(tmp_path, made)) == rejected
    with (tmp_path / made.rejected.file).open("a") as stream:
        stream.write("\n")
    with pytest.raises(UserError, match=r"rejected\.jsonl is damaged"):
        list(read_rejected(tmp_path, made))
    (tmp_path / made.train.file).unlink()
    with pytest.raises(UserError, match=r"train\.jsonl is missing"):
        list(read_shards(tmp_path, made.train))


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"format": 1}'])
def test_a_damaged_manifest_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    with pytest.raises(UserError, match="is damaged") as caught:
        load_manifest(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_digest_of_a_split_follows_its_content(dataset: Path, tmp_path: Path) -> None:
    manifest = load_manifest(dataset)
    again = load_manifest(tiny.write_dataset(tmp_path))
    assert manifest.digest("train") == again.digest("train")
    assert manifest.digest("train") != manifest.digest("validation")


def _order(count: int, **changes: int) -> list[list[Position]]:
    arguments = {"seed": 3, "batch": 4, "window": 2} | changes
    return list(islice(BatchOrder(UNEVEN, **arguments), count))


def _flat(batches: list[list[Position]]) -> list[Position]:
    return [position for batch in batches for position in batch]


@pytest.mark.parametrize("window", [1, 2, 16])
@pytest.mark.parametrize("batch", [1, 4, TOTAL, 3 * TOTAL + 1])
def test_every_epoch_has_every_sample_once(window: int, batch: int) -> None:
    epochs = 4
    sequence = _flat(_order(-(-epochs * TOTAL // batch), batch=batch, window=window))[: epochs * TOTAL]
    everything = {(shard, sample) for shard, size in enumerate(UNEVEN) for sample in range(size)}
    for epoch in range(epochs):
        part = sequence[epoch * TOTAL : (epoch + 1) * TOTAL]
        assert {position.epoch for position in part} == {epoch}
        assert Counter((position.shard, position.sample) for position in part) == Counter(everything)


def test_epochs_and_seeds_differ_and_one_seed_repeats() -> None:
    steps = 3 * TOTAL
    sequence = _flat(_order(steps, batch=1))
    places = [(position.shard, position.sample) for position in sequence]
    assert places[:TOTAL] != places[TOTAL : 2 * TOTAL] != places[2 * TOTAL :]
    assert places[:TOTAL] != sorted(places[:TOTAL])
    assert _flat(_order(steps, batch=1)) == sequence
    assert _flat(_order(steps, batch=1, seed=4)) != sequence


def test_the_shards_come_in_another_order_every_epoch() -> None:
    sequence = _flat(_order(5 * TOTAL, batch=1, window=1))
    orders = {
        tuple(dict.fromkeys(position.shard for position in sequence[epoch * TOTAL : (epoch + 1) * TOTAL]))
        for epoch in range(5)
    }
    assert len(orders) > 2


def test_samples_of_different_shards_mix() -> None:
    order = [position.shard for position in _flat(_order(TOTAL, batch=1, window=16))]
    changes = sum(before != after for before, after in pairwise(order))
    assert changes > len(UNEVEN)


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("batch", [4, 8, 2 * TOTAL + 4])
def test_ranks_share_every_global_batch(ranks: int, batch: int) -> None:
    whole = _order(12, batch=batch)
    parts = [_order(12, batch=batch, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert {len(part) for rank in parts for part in rank} == {batch // ranks}
    assert [_flat(list(pieces)) for pieces in zip(*parts, strict=True)] == whole


@pytest.mark.parametrize("step", [1, 5, 6, 23])
@pytest.mark.parametrize("ranks", [1, 2])
def test_starting_later_gives_the_tail(step: int, ranks: int) -> None:
    whole = _order(30, rank=ranks - 1, ranks=ranks)
    assert _order(30 - step, rank=ranks - 1, ranks=ranks, step=step) == whole[step:]


@pytest.mark.parametrize("window", [1, 2, 16])
def test_a_shard_without_samples_is_passed_over(window: int) -> None:
    sequence = _flat(list(islice(BatchOrder((0, 3, 0, 2), seed=0, batch=1, window=window), 10)))
    assert Counter((p.shard, p.sample) for p in sequence) == dict.fromkeys([(1, 0), (1, 1), (1, 2), (3, 0), (3, 1)], 2)


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="6 samples does not divide over 4"):
        BatchOrder(UNEVEN, seed=0, batch=6, ranks=4)


def _positions(epochs: int = 1) -> list[Position]:
    return [
        Position(epoch, shard, sample)
        for epoch in range(epochs)
        for shard, size in enumerate(tiny.TRAIN_SIZES)
        for sample in range(size)
    ]


def _equal(first: Batch, second: Batch) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_sample_is_what_was_written(dataset: Path) -> None:
    faces = FaceDataset(dataset, "train", ("hq", "severe"))
    assert len(faces) == sum(tiny.TRAIN_SIZES)
    assert faces.sizes == list(tiny.TRAIN_SIZES)
    written = list(tiny.samples(tiny.TRAIN_SIZES[2], 2))[3]
    sample = faces[Position(0, 2, 3)]
    hq = decode_image(bytes(written["hq.webp"]))  # type: ignore[arg-type]
    assert np.array_equal(sample["hq"], hq)
    assert sample["hq"].shape == sample["lq"].shape == (tiny.SIDE, tiny.SIDE, 3)
    assert sample["hq"].dtype == sample["lq"].dtype == torch.uint8
    # LQ is the same face, spoiled
    spoiled = {name: image.int() for name, image in sample.items()}
    difference = (spoiled["hq"] - spoiled["lq"]).abs().float().mean()
    assert 0 < difference < (spoiled["hq"] - spoiled["lq"].flip(1)).abs().float().mean()


def test_values_lie_in_the_range_of_the_network(dataset: Path) -> None:
    for parts in (("hq", "mild"), ("hq", "severe")):
        faces = FaceDataset(dataset, "train", parts, flip=True, draw=True)  # type: ignore[arg-type]
        values = torch.stack([image for images in validation_batches(faces, batch=2) for image in images["lq"]])
        assert -1 <= values.min() < -0.8
        assert 0.8 < values.max() <= 1


def test_only_what_is_asked_for_is_decoded(dataset: Path) -> None:
    assert FaceDataset(dataset, "train", ("hq",))[Position(0, 0, 0)].keys() == {"hq"}
    assert FaceDataset(dataset, "train", ("mild",))[Position(0, 0, 0)].keys() == {"lq"}


def test_both_images_of_a_pair_are_flipped_or_neither(dataset: Path) -> None:
    plain = FaceDataset(dataset, "train", ("hq", "severe"))
    flipping = FaceDataset(dataset, "train", ("hq", "severe"), flip=True)
    seen = set()
    for position in _positions(epochs=2):
        straight = plain[position]
        mirrored = {name: image.flip(1) for name, image in straight.items()}
        assert _equal(flipping[position], straight) or _equal(flipping[position], mirrored)
        seen.add((_equal(flipping[position], mirrored), position[1:]))
    assert {flip for flip, _ in seen} == {True, False}
    assert len(seen) > len(_positions()), "the same face is flipped in one epoch and not in another"


def test_a_sample_depends_on_its_position_and_the_seed_alone(dataset: Path) -> None:
    first = FaceDataset(dataset, "train", ("hq", "mild"), seed=1, flip=True, draw=True)
    second = FaceDataset(dataset, "train", ("hq", "mild"), seed=1, flip=True, draw=True)
    other = FaceDataset(dataset, "train", ("hq", "mild"), seed=2, flip=True, draw=True)
    positions = _positions(epochs=2)
    samples = {position: first[position] for position in positions}
    assert all(_equal(second[position], samples[position]) for position in reversed(positions))
    assert not all(_equal(other[position], samples[position]) for position in positions)


def test_every_variant_is_chosen_in_training_and_the_first_in_validation(dataset: Path) -> None:
    position = Position(0, 0, 2)
    plain = FaceDataset(dataset, "train", ("mild",))
    variants = [decode_image(bytes(list(tiny.samples(5, 0))[2][f"mild.{n}.jpg"])) for n in range(2)]  # type: ignore[arg-type]
    brightness = [variant.mean() for variant in variants]
    assert plain[position]["lq"].float().mean().item() == pytest.approx(brightness[0], abs=2.5)
    assert all(_equal(plain[position._replace(epoch=epoch)], plain[position]) for epoch in range(4))

    training = FaceDataset(dataset, "train", ("mild",), draw=True)
    means = [training[position._replace(epoch=epoch)]["lq"].float().mean().item() for epoch in range(24)]
    chosen = Counter(min((0, 1), key=lambda variant: abs(brightness[variant] - mean)) for mean in means)
    assert min(chosen[0], chosen[1]) > 4


@pytest.mark.parametrize("workers", [0, 1])
def test_training_batches_are_the_same_for_any_number_of_ranks(dataset: Path, workers: int) -> None:
    faces = FaceDataset(dataset, "train", ("hq", "mild"), seed=1, flip=True, draw=True)

    def batches(step: int = 0, **ranks: int) -> list[Batch]:
        arguments = {"rank": 0, "ranks": 1, "workers": 0} | ranks
        return list(islice(training_batches(faces, seed=1, batch=4, step=step, **arguments), 5 - step))

    whole = batches(workers=workers)
    parts = [batches(rank=rank, ranks=2) for rank in range(2)]
    for number, batch in enumerate(whole):
        joined = {name: torch.cat([rank[number][name] for rank in parts]) for name in batch}
        assert _equal(joined, batch)
    assert all(_equal(a, b) for a, b in zip(batches(step=3), whole[3:], strict=True))


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_validation_batches_are_the_same_for_any_number_of_ranks(dataset: Path, batch: int) -> None:
    faces = FaceDataset(dataset, "validation", ("hq", "mild"))
    whole = list(validation_batches(faces, batch=batch))
    assert sum(len(images["hq"]) for images in whole) == sum(tiny.VALIDATION_SIZES)
    for ranks in (2, 3):
        parts = [list(validation_batches(faces, batch=batch, rank=rank, ranks=ranks)) for rank in range(ranks)]
        for number, images in enumerate(whole):
            assert _equal(parts[number % ranks][number // ranks], images)
        assert sum(len(part) for part in parts) == len(whole)


def test_a_dataset_without_the_wanted_images_is_refused(tmp_path: Path) -> None:
    tiny.write_dataset(tmp_path, {"severe": 1})
    with pytest.raises(UserError, match="has no mild images; it has severe"):
        FaceDataset(tmp_path, "train", ("hq", "mild"))


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    tiny.write_dataset(tmp_path)
    write_dataset_manifest(tmp_path, resolution=tiny.SIDE, recipes={}, variants={}, seed=0, train=[], validation=[])
    with pytest.raises(UserError, match="has no validation samples"):
        FaceDataset(tmp_path, "validation", ("hq",))


def test_a_dataset_of_another_resolution_is_refused(dataset: Path) -> None:
    check_resolution(load_manifest(dataset), tiny.SIDE, "hq_codebook")
    with pytest.raises(UserError, match="hq_codebook: the network takes 512 pixels, the dataset has 16"):
        check_resolution(load_manifest(dataset), 512, "hq_codebook")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_is_gone_is_told_in_one_line(tmp_path: Path, workers: int) -> None:
    folder = tiny.write_dataset(tmp_path)
    faces = FaceDataset(folder, "train", ("hq",))
    (folder / "train-2.tar").unlink()
    with pytest.raises(UserError, match=r"^shard .*train-2\.tar is missing; the manifest beside it lists it$"):
        list(islice(training_batches(faces, seed=0, batch=12, rank=0, ranks=1, step=0, workers=workers), 1))


def _damage(dataset: Path, sample: Position, *fields: str) -> None:
    """Overwrite the end of some of a sample's fields, which changes neither size nor index of its shard."""
    shard = list(read_shards(dataset, load_manifest(dataset).train))[sample.shard]
    reader = ShardReader(dataset, shard)
    data = bytearray((dataset / shard.name).read_bytes())
    for field in fields:
        content = reader.read(sample.sample, field)
        start = data.index(content)
        data[start : start + len(content)] = bytes(len(content))
    (dataset / shard.name).write_bytes(data)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_sample_is_passed_over_and_counted(tmp_path: Path, workers: int, caplog: Any) -> None:
    tiny.write_dataset(tmp_path)
    whole = FaceDataset(tmp_path, "train", ("hq", "severe"))
    last = Position(0, 0, tiny.TRAIN_SIZES[0] - 1)
    expected = whole[Position(0, 0, 0)]
    _damage(tmp_path, last, "hq.webp")
    faces = FaceDataset(tmp_path, "train", ("hq", "severe"))
    assert _equal(faces[last], expected), "the first of its shard stands in for the last"
    assert faces.skipped == 1
    key = f"sample 000-{last.sample:03d}"
    assert [key in record.getMessage() for record in caplog.records] == [True]
    list(
        islice(
            training_batches(faces, seed=0, batch=sum(tiny.TRAIN_SIZES), rank=0, ranks=1, step=0, workers=workers), 1
        )
    )
    assert faces.skipped >= 2
    assert FaceDataset(tmp_path, "train", ("severe",))[last].keys() == {"lq"}, "what is not asked for may be damaged"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_shard_is_named_in_one_line(tmp_path: Path, workers: int) -> None:
    tiny.write_dataset(tmp_path)
    for sample in range(tiny.TRAIN_SIZES[1]):
        _damage(tmp_path, Position(0, 1, sample), "hq.webp")
    faces = FaceDataset(tmp_path, "train", ("hq",))
    with pytest.raises(UserError, match=r"^shard .*train-1\.tar is damaged: none of its samples can be read$"):
        list(islice(training_batches(faces, seed=0, batch=4, rank=0, ranks=1, step=0, workers=workers), 8))
    checked = FaceDataset(tmp_path, "train", ("hq",), check_digests=True)
    with pytest.raises(UserError, match=r"^shard .*train-1\.tar is damaged: it does not have the digest"):
        list(islice(training_batches(checked, seed=0, batch=4, rank=0, ranks=1, step=0, workers=workers), 8))


class RecordsThreads:
    """Opens shards beside their manifest, and records in which process and with how many threads of OpenCV."""

    def __init__(self, folder: Path, records: Path) -> None:
        self._folder, self._records = folder, records

    def __call__(self, shard: Shard) -> AbstractContextManager[Path]:
        record = {"pid": os.getpid(), "opencv": cv2.getNumThreads(), "start": start_method()}
        (self._records / f"{os.getpid()}-{shard.name}.json").write_text(json.dumps(record))
        return nullcontext(self._folder / shard.name)


def start_method() -> str:
    """How this process was started: what a fork inherits is missing in a child of a server."""
    return "fork" if INHERITED else "server"


INHERITED: list[int] = []


def test_processes_that_decode_inherit_nothing_and_use_one_thread(dataset: Path, tmp_path: Path) -> None:
    INHERITED.append(1)
    try:
        faces = FaceDataset(dataset, "train", ("hq",), fetch=RecordsThreads(dataset, tmp_path))
        assert len(faces[Position(0, 0, 0)]) == 1, "a shard that is open here is opened again there"
        for path in tmp_path.iterdir():
            path.unlink()
        list(islice(training_batches(faces, seed=0, batch=12, rank=0, ranks=1, step=0, workers=1), 3))
    finally:
        INHERITED.clear()
    records = [json.loads(path.read_text()) for path in tmp_path.iterdir()]
    assert records
    assert {record["opencv"] for record in records} == {1}
    assert {record["start"] for record in records} == {"server"}
    assert len({record["pid"] for record in records}) == 1, "one process for all passes over the data"
