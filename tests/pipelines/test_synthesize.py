import json
import tracemalloc
from pathlib import Path

import pytest

from daefr.data.components import component_boxes, template_landmarks
from daefr.data.images import decode_image, encode_png
from daefr.data.shards import ShardReader, file_digest
from degradations import get_recipe, replay
from pipelines import sources
from pipelines.config import load_config
from pipelines.sources import Source, list_sources
from pipelines.synthesize import Plan, ShardTask, make_shard
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
        ["hq.png", "json", "mild.0.jpg", "mild.1.jpg", "severe.0.jpg", "severe.1.jpg"]
    )
    about = json.loads(reader.read(1, "json"))
    assert about["source"] == "portrait-000001"
    hq = decode_image(reader.read(1, "hq.png"))
    for kind, variants in about["variants"].items():
        for number, params in enumerate(variants):
            assert params["recipe"] == get_recipe(f"daefr-{kind}").name
            assert replay(hq, params) == reader.read(1, f"{kind}.{number}.jpg")


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
    assert [(entry.source, entry.reason) for entry in receipt.rejected] == [("notes.txt", "not a readable image")]
    assert (receipt.shard.samples if receipt.shard else 0) == good
    assert (tmp_path / "train.tar").exists() == bool(good)


def test_planning_holds_neither_the_names_nor_the_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "HEAD", 500)
    config = load_config(TINY, ["data.portraits=20000", f"workdir={tmp_path}"])
    plan = Plan(config, tmp_path, list_sources(config.data))
    tracemalloc.start()
    try:
        assert sum(len(task.sources) for task in plan) == plan.faces == 20_000
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
