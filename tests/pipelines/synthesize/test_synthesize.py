import json
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from daefr.data.dataset import FaceDataset
from daefr.data.manifest import write_dataset_manifest
from daefr.data.order import Position
from daefr.data.shards import ShardReader
from daefr.faces.alignment import align
from daefr.faces.components import component_boxes
from daefr.faces.detector import Detector
from daefr.faces.rejection import count_reasons
from daefr.faces.template import template_landmarks
from daefr.files import file_digest
from daefr.images import decode_image, encode_png
from daefr.settings.faces import FaceFilters
from degradations import get_recipe, replay
from pipelines.config import load_config
from pipelines.synthesize import photographs, sources
from pipelines.synthesize.photographs import Photographs
from pipelines.synthesize.plan import Plan
from pipelines.synthesize.shards import Receipt, ShardTask, make_shard
from pipelines.synthesize.sources import Source, list_sources
from tests.daefr.photographs import SHARED, WEIGHTS, Told, needs_detector, needs_faces, photograph
from tests.e2e.command import TINY


def _task(path: Path, sources: list[Source], variants: int = 2) -> ShardTask:
    recipes = {"mild": "daefr-mild", "severe": "daefr-severe"}
    return ShardTask(path=path, sources=sources, first=0, resolution=32, recipes=recipes, variants=variants, seed=5)


PORTRAITS = [Source(f"portrait-{number:06d}", portrait=number) for number in range(3)]


def test_a_task_run_again_makes_the_same_bytes(tmp_path: Path) -> None:
    first = make_shard(_task(tmp_path / "a/train-000000.tar", PORTRAITS))
    again = make_shard(_task(tmp_path / "b/train-000000.tar", PORTRAITS))
    assert first == again
    assert file_digest(tmp_path / "a/train-000000.tar") == file_digest(tmp_path / "b/train-000000.tar")


def test_a_sample_can_be_made_again_from_what_it_tells(tmp_path: Path) -> None:
    receipt = make_shard(_task(tmp_path / "train-000000.tar", PORTRAITS))
    assert receipt.shard is not None
    reader = ShardReader(tmp_path, receipt.shard)
    assert sorted(reader.fields(0)) == sorted(
        ["hq.webp", "json", "mild.0.jpg", "mild.1.jpg", "severe.0.jpg", "severe.1.jpg"]
    )
    about = json.loads(reader.read(1, "json"))
    assert about["source"] == "portrait-000001"
    hq = decode_image(reader.read(1, "hq.webp"))
    for kind, variants in about["variants"].items():
        for number, params in enumerate(variants):
            assert params["recipe"] == get_recipe(f"daefr-{kind}").name
            assert replay(hq, params) == reader.read(1, f"{kind}.{number}.jpg")


def test_samples_of_every_recipe_can_be_read(tmp_path: Path) -> None:
    """Those that do not end with a JPEG are PNG files."""
    recipes = {"mild": "gfpgan", "severe": "real-esrgan"}
    task = replace(_task(tmp_path / "train-000000.tar", PORTRAITS, variants=3), recipes=recipes)
    shard = make_shard(task).shard
    assert shard is not None
    kinds = {field.split(".")[2] for field in ShardReader(tmp_path, shard).fields(0) if field.startswith("mild")}
    assert kinds <= {"jpg", "png"}
    write_dataset_manifest(
        tmp_path,
        resolution=32,
        recipes=recipes,
        variants={"mild": 3, "severe": 3},
        seed=5,
        train=[shard],
        validation=[],
    )
    for part in ("mild", "severe"):
        dataset = FaceDataset(tmp_path, "train", ["hq", part], draw=True)  # type: ignore[list-item]
        for epoch in range(4):
            for sample in range(3):
                read = dataset[Position(epoch, 0, sample)]
                assert read["lq"].shape == read["hq"].shape == (32, 32, 3)
                assert 0 < (read["lq"].int() - read["hq"].int()).abs().float().mean() < 128


def test_how_a_face_is_degraded_depends_on_no_other_face(tmp_path: Path) -> None:
    alone = make_shard(_task(tmp_path / "alone.tar", PORTRAITS[2:], variants=1)).shard
    among = make_shard(_task(tmp_path / "among.tar", PORTRAITS, variants=2)).shard
    assert alone is not None
    assert among is not None
    assert ShardReader(tmp_path, alone).read(0, "severe.0.jpg") == ShardReader(tmp_path, among).read(2, "severe.0.jpg")


def test_variants_of_a_face_differ(tmp_path: Path) -> None:
    shard = make_shard(_task(tmp_path / "train.tar", PORTRAITS)).shard
    assert shard is not None
    reader = ShardReader(tmp_path, shard)
    assert reader.read(0, "mild.0.jpg") != reader.read(0, "mild.1.jpg")


@pytest.mark.parametrize("good", [0, 1])
def test_what_is_rejected_is_listed_with_its_reason_and_the_rest_goes_on(good: int, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a face")
    receipt = make_shard(_task(tmp_path / "train.tar", [Source("notes.txt", text), *PORTRAITS[:good]]))
    assert [(entry.source, entry.kind) for entry in receipt.rejected] == [("notes.txt", "not a readable image")]
    assert (receipt.shard.samples if receipt.shard else 0) == good
    assert (tmp_path / "train.tar").exists() == bool(good)


def test_a_file_whose_name_is_no_text_is_a_sample_or_a_rejection_like_any_other(tmp_path: Path) -> None:
    good, bad = (tmp_path / os.fsdecode(name) for name in (b"a\xff.png", b"b\xff.png"))
    good.write_bytes(encode_png(PORTRAITS[0].load(32).image))
    bad.write_bytes(b"no image")
    receipt = make_shard(_task(tmp_path / "out/train.tar", [Source(path.name, path) for path in (good, bad)]))
    again = Receipt.model_validate_json(receipt.model_dump_json())
    assert again == receipt
    assert [entry.source for entry in again.rejected] == [r"b\xff.png"]
    assert again.shard is not None and again.shard.samples == 1


def test_planning_holds_neither_the_names_nor_the_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "HEAD", 500)
    config = load_config(TINY, ["data.num_portraits=20000", f"workdir={tmp_path}"])
    plan = Plan(config.data, config.resolution, config.seed, tmp_path / "dataset", list_sources(config.data))
    tracemalloc.start()
    try:
        assert sum(len(task.sources) for task in plan) == plan.planned == 20_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000 * 50, "bytes; a source takes some 200"


def test_a_sample_tells_where_its_components_are(tmp_path: Path) -> None:
    crop = tmp_path / "crop.png"
    crop.write_bytes(encode_png(PORTRAITS[0].load(64).image))
    receipt = make_shard(_task(tmp_path / "train.tar", [PORTRAITS[0], Source("crop.png", crop)], variants=1))
    assert receipt.shard is not None
    reader = ShardReader(tmp_path, receipt.shard)
    portrait, folder = (json.loads(reader.read(number, "json")) for number in range(2))
    assert portrait["components_from"] == "landmarks"
    assert portrait["components"] == component_boxes(portrait["landmarks"], 32)
    assert folder["components_from"] == "template"
    assert folder["landmarks"] is None, "what is not known is not made up"
    assert folder["components"] == component_boxes(template_landmarks(32), 32)


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A photograph in which a detector finds the one face, and the same again with too low a score."""
    image, face = photograph()
    loads: list[Path | None] = []
    detector = Told([face, replace(face, score=0.6)])
    monkeypatch.setattr(Detector, "load", lambda path, *_: loads.append(path) or detector)
    photographs._aligner.cache_clear()
    path = tmp_path / "photo.png"
    path.write_bytes(encode_png(image))
    yield Source("a/photo.png", path)
    photographs._aligner.cache_clear()
    assert loads == [Path("weights.pth")], "the weights are loaded once"


def _with_photographs(path: Path, sources: list[Source], filters: FaceFilters | None = None) -> ShardTask:
    filters = filters or FaceFilters(min_sharpness=0)
    return replace(_task(path, sources), photographs=Photographs(Path("weights.pth"), filters))


def test_every_face_of_a_photograph_is_a_sample(told: Source, tmp_path: Path) -> None:
    empty = tmp_path / "text.txt"
    empty.write_text("text")
    task = _with_photographs(tmp_path / "train.tar", [Source("text.txt", empty), told, PORTRAITS[0]])
    receipt = make_shard(task)
    assert receipt.shard is not None
    assert receipt.fruitless == 1
    assert [(entry.source, entry.kind) for entry in receipt.rejected] == [
        ("text.txt", "not a readable image"),
        ("a/photo.png#1", "low score"),
    ]
    assert count_reasons(receipt.rejected) == {"low score": 1, "not a readable image": 1}
    reader = ShardReader(tmp_path, receipt.shard)
    assert [reader.key(number) for number in range(len(reader))] == ["00000001-0", "00000002"]
    about = json.loads(reader.read(0, "json"))
    assert about["source"] == "a/photo.png#0"
    assert about["components_from"] == "landmarks"
    assert about["components"] == component_boxes(about["landmarks"], 32)
    image, face = photograph()
    crop, matrix = align(image, face.landmarks)
    np.testing.assert_allclose(np.array(about["crop"]["matrix"]) * 16, matrix, rtol=1e-6)
    assert about["crop"]["score"] == 0.99
    hq = decode_image(reader.read(0, "hq.webp")).astype(float)
    assert np.abs(hq - crop.reshape(32, 16, 32, 16, 3).mean(axis=(1, 3))).max() <= 1
    again = make_shard(replace(task, path=tmp_path / "again.tar"))
    assert again.shard is not None
    assert again.shard.sha256 == receipt.shard.sha256


def test_an_image_with_too_many_pixels_is_rejected_aligned_or_not(told: Source, tmp_path: Path) -> None:
    for number, task in enumerate([_task(tmp_path / "a.tar", [told]), _with_photographs(tmp_path / "b.tar", [told])]):
        receipt = make_shard(replace(task, max_pixels=900 * 900 - 1))
        assert receipt.shard is None, number
        assert [entry.reason for entry in receipt.rejected] == ["too many pixels: more than 809999"]


@needs_detector
@needs_faces
def test_real_photographs_give_the_same_bytes_twice(tmp_path: Path) -> None:
    folder = SHARED / "faces" / "photos"
    sources = [Source(name, folder / name) for name in ("00.jpg", "03.jpg", "facexlib_test.jpg")]
    how = Photographs(WEIGHTS, FaceFilters(min_size=64, min_sharpness=0, max_outside=1))
    tasks = [replace(_task(tmp_path / f"{run}.tar", sources), photographs=how) for run in range(2)]
    first, second = (make_shard(task) for task in tasks)
    photographs._aligner.cache_clear()
    assert first.shard is not None
    assert second.shard is not None
    assert first.shard.sha256 == second.shard.sha256
    assert first.shard.samples >= 4
    assert count_reasons(first.rejected).keys() <= {"too small"}
