from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest

from daefr.data.manifest import Split
from daefr.errors import UserError
from pipelines.synthesize.settings import DataConfig
from pipelines.synthesize.sources import RejectedError, Source, Sources, head_digest, list_sources


def _write(path: Path, height: int = 40, width: int = 40) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), image)
    return path


def _names(sources: Mapping[Split, Sources]) -> dict[Split, list[str]]:
    return {split: [source.name for source in part] for split, part in sources.items()}


def test_a_folder_is_searched_in_depth_and_split_the_same_way_every_time(tmp_path: Path) -> None:
    names = [
        f"{folder}/{number}.{kind}" for folder in ("a", "a/b") for number, kind in enumerate(["png", "jpg", "webp"])
    ]
    for name in names:
        _write(tmp_path / name)
    data = DataConfig(faces=str(tmp_path), num_validation=2)
    sources = list_sources(data)
    assert _names(sources) == _names(list_sources(data))
    assert len(list(sources["validation"])) == 2
    assert sorted(source.name for part in sources.values() for source in part) == sorted(names)


def test_a_face_keeps_its_split_when_faces_are_added(tmp_path: Path) -> None:
    for number in range(20):
        _write(tmp_path / f"{number}.png")
    data = DataConfig(faces=str(tmp_path), num_validation=20 // 2)
    before = {source.name for source in list_sources(data)["train"]}
    _write(tmp_path / "new.png")
    after = {source.name for source in list_sources(data)["train"]}
    assert len(before - after) <= 1


def test_the_digest_tells_of_a_changed_file(tmp_path: Path) -> None:
    for number in range(3):
        _write(tmp_path / f"{number}.png")
    data = DataConfig(faces=str(tmp_path), num_validation=1)
    before = head_digest(list_sources(data))
    assert before == head_digest(list_sources(data))
    _write(tmp_path / "1.png", 50, 50)
    assert before != head_digest(list_sources(data))


def test_the_same_place_can_serve_both_splits_and_be_limited(tmp_path: Path) -> None:
    for number in range(6):
        _write(tmp_path / f"{number}.png")
    sources = list_sources(DataConfig(faces=str(tmp_path), validation_faces=str(tmp_path), max_faces=4))
    assert list(sources["train"]) == list(sources["validation"])
    assert len(list(sources["train"])) == 4


@pytest.mark.parametrize("kind", ["missing", "empty", "file"])
def test_a_place_without_faces_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    place = tmp_path / kind
    if kind == "empty":
        place.mkdir()
    if kind == "file":
        place.write_text("text")
    with pytest.raises(UserError, match=r"data\.faces") as caught:
        list_sources(DataConfig(faces=str(place)))
    assert "\n" not in str(caught.value)


def test_setting_apart_every_face_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.num_validation=8 holds out all of the 8 faces"):
        list_sources(DataConfig(num_portraits=8, num_validation=8))


def test_a_portrait_comes_with_its_landmarks() -> None:
    face = Source("portrait-000001", portrait=1).load(32)
    assert face.image.shape == (32, 32, 3)
    assert face.landmarks is not None
    assert len(face.landmarks) == 5


@pytest.mark.parametrize(
    ("height", "width", "reason"), [(31, 31, "too small: 31 pixels"), (40, 50, "not square: 50x40"), (64, 64, "")]
)
def test_crops_of_at_least_the_resolution_are_taken(height: int, width: int, reason: str, tmp_path: Path) -> None:
    source = Source("face.png", _write(tmp_path / "face.png", height, width))
    if reason:
        with pytest.raises(RejectedError, match=reason):
            source.load(32)
    else:
        assert source.load(32).image.shape == (32, 32, 3)


def test_text_and_broken_images_are_rejected(tmp_path: Path) -> None:
    whole = _write(tmp_path / "face.png").read_bytes()
    for name, data in {"text.txt": b"no image", "empty.png": b"", "cut.png": whole[: len(whole) // 3]}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(RejectedError):
            Source(name, tmp_path / name).load(32)
