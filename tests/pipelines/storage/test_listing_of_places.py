"""Whatever lies in a folder or a tar file is listed as an image, or noted as something else; the numbers add up."""

import gzip
import io
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daefr.errors import UserError
from daefr.listing import PassedOver
from pipelines.storage.files import File, list_files, read_file
from pipelines.synthesize.settings import DataConfig
from pipelines.synthesize.sources import check_sources, list_sources
from tests.daefr.photographs import SHARED

JPEG = b"\xff\xd8\xff and so on"
FILES = {"1.png": b"x", "2.TIFF": b"y", "3.jfif": b"z", "4.bmp": b"", "plain": JPEG, "5.txt": b"text", "6.json": b"{}"}
FOLDERS = ["", "a", "a/b", "ü c", "d"]


def _places(names: list[str]) -> st.SearchStrategy[str]:
    return st.sampled_from([f"{folder}/{name}".lstrip("/") for folder in FOLDERS for name in names])


places = _places([*FILES])
links = st.tuples(
    _places(["link", "link.png", "other.txt"]),
    st.one_of(places, st.sampled_from([*FOLDERS, "nothing", "a/nothing.png", "link", "a/link"])),
)


def _build(root: Path, files: set[str], symbolic: dict[str, str], hard: dict[str, str]) -> None:
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in files:
        (root / name).write_bytes(name.encode() + FILES[name.rpartition("/")[2]] if "." in name else JPEG)
    for name, target in hard.items():
        if target in files:
            os.link(root / target, root / name)
    for name, target in symbolic.items():
        if not os.path.lexists(root / name):
            (root / name).symlink_to(os.path.relpath(root / target, (root / name).parent))


def _walk(folder: Path, prefix: str, way: tuple[Path, ...]) -> Iterator[tuple[str, str]]:
    """Yield every name below a folder, through links: whether it is a file, or a link that leads nowhere or back."""
    for path in folder.iterdir():
        real, name = Path(os.path.realpath(path)), prefix + path.name
        if path.is_dir() and not (path.is_symlink() and any(each.is_relative_to(real) for each in way)):
            yield from _walk(path, f"{name}/", (*way, real))
        else:
            yield name, "file" if path.is_file() else "link"


def _list(place: Path) -> tuple[dict[str, File], PassedOver]:
    passed_over = PassedOver()
    files = list(list_files(str(place), passed_over, every_name=True))
    names = {file.name: file for file in files}
    assert len(names) == len(files), "a name is listed once"
    return names, passed_over


def _pack(folder: Path, path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        tar.add(folder, ".")


@settings(max_examples=150, deadline=None)
@given(st.sets(places, max_size=8), st.lists(links, max_size=5), st.lists(links, max_size=3))
def test_the_numbers_add_up_to_what_is_there(
    files: set[str], symbolic: list[tuple[str, str]], hard: list[tuple[str, str]]
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        root, packed = Path(scratch) / "tree", Path(scratch) / "tree.tar"
        _build(root, files, dict(symbolic), dict(hard))
        there = dict(_walk(root, "", (root.resolve(),)))
        images, passed_over = _list(root)
        assert images.keys() <= there.keys()
        assert len(images) + passed_over.other_files + len(passed_over.links) == len(there)
        assert len(passed_over.links) == list(there.values()).count("link")
        expected = {name for name, kind in there.items() if kind == "file" and not name.endswith((".txt", ".json"))}
        assert images.keys() >= {name for name in expected if name.endswith((".png", ".TIFF", ".jfif", ".bmp"))}

        _pack(root, packed)
        members, beside = _list(packed)
        assert {name.removeprefix("tree.tar/") for name in members} == images.keys()
        assert (beside.other_files, len(beside.links)) == (passed_over.other_files, len(passed_over.links))
        assert beside.members == []
        for name in images:
            member = members[f"tree.tar/{name}"]
            assert read_file(member.path, member.stamp, member.offset, member.size) == (root / name).read_bytes()


@pytest.mark.skipif(not SHARED.exists(), reason="the inputs from the field are not in this checkout")
@pytest.mark.parametrize(("name", "count"), [("hard.tar", 12), ("up.tar", 10)])
def test_faces_behind_links_and_above_are_listed(name: str, count: int, tmp_path: Path) -> None:
    images, passed_over = _list(SHARED / "field" / name)
    assert len(images) == count
    assert passed_over == PassedOver()
    assert all(".." not in file.split("/") for file in images), "a name that becomes a path must not lead elsewhere"
    shutil.copy(SHARED / "field" / name, tmp_path / "in.tar")
    assert len(_list(tmp_path)[0]) == count


def _tar(path: Path, members: list[tuple[str, bytes | str]], kind: bytes = tarfile.SYMTYPE) -> Path:
    """Write members in order, by name and content, or target of a link."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = kind, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def _contents(place: Path) -> dict[str, bytes]:
    return {
        name.partition("/")[2]: read_file(file.path, file.stamp, file.offset, file.size)
        for name, file in _list(place)[0].items()
    }


def test_of_two_members_with_one_name_the_last_counts_and_the_other_is_noted(tmp_path: Path) -> None:
    path = _tar(tmp_path / "x.tar", [("a.png", b"old"), ("b.png", b"b"), ("./a.png", b"new"), ("c/../b.png", b"last")])
    assert _contents(path) == {"a.png": b"new", "b.png": b"last"}
    assert len(_list(path)[1].members) == 2
    again = _tar(tmp_path / "y.tar", [("a.png", b"a"), ("a.png", "a.png")], tarfile.LNKTYPE)
    assert _contents(again) == {"a.png": b"a"}
    assert _list(again)[1] == PassedOver()


def test_links_that_lead_nowhere_out_of_it_or_in_a_circle_are_noted(tmp_path: Path) -> None:
    wrong = [("a.png", "b.png"), ("b.png", "a.png"), ("c.png", "/etc/c.png"), ("d.png", "../d.png"), ("e.png", "e.png")]
    path = _tar(tmp_path / "x.tar", [("1.png", b"1"), *wrong])
    assert _contents(path) == {"1.png": b"1"}
    assert len(_list(path)[1].links) == 5
    hard = _tar(tmp_path / "y.tar", [("1.png", b"1"), ("2.png", "none.png")], tarfile.LNKTYPE)
    assert _contents(hard) == {"1.png": b"1"}
    assert len(_list(hard)[1].members) == 1


def test_a_link_is_listed_once_where_only_files_count(tmp_path: Path) -> None:
    path, passed_over = _tar(tmp_path / "x.tar", [("1.png", b"1"), ("2.png", "1.png")]), PassedOver()
    assert [file.name for file in list_files(str(path), passed_over)] == ["x.tar/1.png"]
    assert len(passed_over.links) == 1


def test_what_is_no_file_is_counted_and_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    _tar(
        tmp_path / "x.tar",
        [("pipe.png", ""), ("1.png", b"1"), ("inner.tar", b""), ("inner.tgz", b"")],
        tarfile.FIFOTYPE,
    )
    images, passed_over = _list(tmp_path)
    assert [*images] == ["x.tar/1.png"]
    assert passed_over.other_files == 2
    assert len(passed_over.members) == 2


def _compressed(folder: Path, name: str) -> Path:
    path, plain = folder / name, _tar(folder.parent / "plain.tar", [("1.png", b"1")])
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("1.png", b"1")
    else:
        path.write_bytes(gzip.compress(plain.read_bytes()))
    return path


@pytest.mark.parametrize("name", ["x.tar.gz", "x.TGZ", "x.tar", "x.zip", "x.tar.xz"])
def test_a_compressed_archive_is_told_in_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = _compressed(tmp_path / "in", name)
    (tmp_path / "in/2.png").write_bytes(b"2")
    for place in (path, tmp_path / "in"):
        for check in (check_sources, list_sources):
            with pytest.raises(UserError, match=rf"{name} is compressed: unpack it") as caught:
                check(DataConfig(faces=str(place), num_validation=3))
            assert "\n" not in str(caught.value)


def test_sources_carry_what_was_passed_over(tmp_path: Path) -> None:
    for name in ("1.png", "2.png", "3.png", "notes.txt", "more.json"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "lost.png").symlink_to("nothing")
    (tmp_path / "again.png").symlink_to("1.png")
    sources = list_sources(DataConfig(faces=str(tmp_path), num_validation=1))
    assert sum(len(part.head) for part in sources.values()) == 4
    assert (sources["train"].passed_over.other_files, len(sources["train"].passed_over.links)) == (2, 1)
    assert sources["validation"].passed_over == PassedOver(), "it is counted once"
