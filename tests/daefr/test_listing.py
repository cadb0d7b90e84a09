"""What lies in a folder is listed and counted, each thing once, whatever links there are."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daefr.errors import UserError
from daefr.listing import PassedOver, list_images, name_without_suffix, walk

JPEG = b"\xff\xd8\xff\xe0 photograph"
FILES = {"a.jpg": b"", "b.PNG": b"", "no suffix": JPEG, "c.jpg_original": JPEG, "Thumbs.db": b"db", "d.json": b"{}"}
FILES |= {"BMW.txt": b"BM", "e.dng": b"II*\0raw", ".hidden.jpg": JPEG}
FOLDERS = ["", "x", "x/y", "x/.hidden", "../outside", "../outside/z"]
PLACES = st.sampled_from(
    [*FOLDERS, "..", "x/a.jpg", "x/.hidden/a.jpg", "../outside/a.jpg", "/dev/null", "link", "gone"]
)


def _images(folder: Path, **options: bool) -> list[str]:
    return [found.name for found in walk(folder, **options) if found.kind == "image"]


@settings(max_examples=150, deadline=None)
@given(
    files=st.sets(st.tuples(st.sampled_from(FOLDERS), st.sampled_from(sorted(FILES)))),
    links=st.dictionaries(
        st.tuples(st.sampled_from(FOLDERS), st.sampled_from(["link", "other link", "link.jpg", ".link"])), PLACES
    ),
)
def test_whatever_there_is_is_counted_once(files: set[tuple[str, str]], links: dict[tuple[str, str], str]) -> None:
    with tempfile.TemporaryDirectory() as parent:
        root = Path(parent).resolve() / "in"
        for folder in FOLDERS:
            (root / folder).mkdir(parents=True, exist_ok=True)
        for folder, name in files:
            (root / folder / name).write_bytes(FILES[name])
        for (folder, name), place in links.items():
            (root / folder / name).symlink_to(root / place)
        folders, real_files, all_links = _reachable(root)
        found = list(walk(root))
        names = [each.name for each in found]
        assert len(set(names)) == len(names)
        files_found = {_real(root / each.name): each for each in found if each.kind in ("image", "other")}
        passed_over = {root / each.name for each in found if each.kind == "link"}
        assert len(files_found) + len(passed_over) == len(found), "no file twice"
        assert set(files_found) == real_files
        dangling = {_real(link.parent) / link.name for link in passed_over if not link.exists()}
        assert dangling == {link for link in all_links if not link.exists()}
        assert all(_real(link) in folders | real_files for link in passed_over if link.exists())
        for path, each in files_found.items():
            is_image = each.name.endswith(".jpg") or path.name.endswith((".jpg", ".PNG"))
            is_image |= FILES.get(path.name) == JPEG
            assert each.kind == ("image" if is_image and path != Path(os.devnull) else "other")


def _reachable(root: Path) -> tuple[set[Path], set[Path], list[Path]]:
    """Return the folders, the files and the links that can be reached, by a search that knows no names."""
    folders, files, links, waiting = set[Path](), set[Path](), list[Path](), [root]
    while waiting:
        folder = waiting.pop()
        if folder in folders:
            continue
        folders.add(folder)
        for path in folder.iterdir():
            if path.name.startswith("."):
                continue
            links += [path] if path.is_symlink() else []
            target = _real(path)
            if target.is_dir():
                waiting.append(target)
            elif target.exists():
                files.add(target)
    return folders, files, links


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def test_links_are_followed_once_and_otherwise_named(tmp_path: Path) -> None:
    root, album = tmp_path / "in", tmp_path / "album"
    for path in (root / "a.jpg", root / ".store" / "b.jpg", album / "c.jpg", album / "deep" / "d.jpg"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(JPEG)
    (root / "round").symlink_to(root)
    (root / "album").symlink_to(album)
    (root / "album again").symlink_to(album)
    (album / "back").symlink_to(root)
    (root / "b.jpg").symlink_to(root / ".store" / "b.jpg")  # as git-annex has them
    (root / "again.jpg").symlink_to(root / "a.jpg")
    (root / "gone.jpg").symlink_to(root / "nowhere.jpg")
    (root / "itself.jpg").symlink_to(root / "itself.jpg")
    os.mkfifo(root / "pipe.jpg")
    passed_over = PassedOver()
    images = list_images(root, passed_over)
    assert [str(path.relative_to(root)) for path in images] == ["a.jpg", "album/c.jpg", "album/deep/d.jpg", "b.jpg"]
    assert passed_over.other_files == 1
    assert [link.split(" leads ")[0].removeprefix(f"{root}/") for link in passed_over.links] == [
        "album again", "round", "album/back", "again.jpg", "gone.jpg", "itself.jpg"
    ]  # fmt: skip
    assert "again.jpg" in _images(root, every_name=True)
    assert passed_over.summary() == ", 1 other file, 6 links passed over"


def test_results_that_lie_in_the_folder_are_left_out(tmp_path: Path) -> None:
    for name in ("in/a.jpg", "in/out/a.png", "in/out/deep/b.png", "in/outer/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(JPEG)
    (tmp_path / "in" / "best.png").symlink_to("out/a.png")
    (tmp_path / "in" / "link").symlink_to("out/deep")
    found = [each.name for each in walk(tmp_path / "in", without=tmp_path / "in" / "out") if each.kind == "image"]
    assert found == ["a.jpg", "outer/c.jpg"]
    inner = [each.name for each in walk(tmp_path / "in" / "out" / "deep", without=tmp_path / "in" / "out")]
    assert inner == ["b.png"], "what lies below the results may be restored into them"


def test_a_place_without_images_says_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is empty; give an image"):
        list_images(tmp_path, PassedOver())
    (tmp_path / ".hidden").write_text("text")
    with pytest.raises(UserError, match="has no image; give an image"):
        list_images(tmp_path, PassedOver())
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "gone").symlink_to("nowhere")
    with pytest.raises(UserError, match="has no image, 1 other file, 1 link passed over; give"):
        list_images(tmp_path, PassedOver())
    with pytest.raises(UserError, match="does not exist"):
        list_images(tmp_path / "nowhere", PassedOver())


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_folder_that_is_closed_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(JPEG)
    (tmp_path / "closed").mkdir(mode=0)
    passed_over = PassedOver()
    assert len(list_images(tmp_path, passed_over)) == 1
    assert passed_over.unreadable == [f"{tmp_path / 'closed'} cannot be listed: Permission denied"]


def test_a_result_has_its_sources_name_without_suffixes() -> None:
    names = ["a/0001.png", "a/0001.jpg.png", "a/0001.JPG", "a/0001"]
    assert {name_without_suffix(name) for name in names} == {"a/0001"}
    assert name_without_suffix("a/photo.v2") == "a/photo.v2"
