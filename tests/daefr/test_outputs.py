"""Nothing of somebody else's is replaced or removed, whatever is run and whatever dies."""

import errno
import hashlib
import os
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from daefr import files
from daefr.__main__ import main
from daefr.checkpoint import Checkpoint, save_checkpoint
from daefr.errors import UserError
from daefr.faces.detector import Detector
from daefr.files import PLACEHOLDER, atomic_path, new_folder, write_named
from daefr.images import encode_png
from daefr.outputs import RECORD, Folder, FolderRecord, InTheWayError, OnConflict, Results
from daefr.settings.base import StageName
from daefr.training.reporter import FolderReporter
from tests.daefr import foreign, tiny
from tests.daefr.photographs import Told, photograph

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(checkpoints: dict[StageName, Checkpoint]) -> Path:
    return checkpoints["restoration"].path


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """A folder with crops of faces at two depths."""
    folder = tmp_path / "faces"
    (folder / "a").mkdir(parents=True)
    for number, name in enumerate(("IMG_0001.jpg", "a/two.webp")):
        cv2.imwrite(str(folder / name), tiny.face(np.random.default_rng(number))[:, :, ::-1])
    return folder


NAMES = ("IMG_0001.jpg", "a/two.webp")


def _run(source: Path, target: Path, model: Path, *more: str) -> int:
    return main(["restore", str(source), str(target), "--model", str(model), "--device", "cpu", *more])


def _files(folder: Path) -> set[str]:
    return {name for name in foreign.seen(folder) if not name.startswith(".")}


# --- restoring


@pytest.mark.parametrize("kind", ["folder", "single", "named", "copies", "copy", "named copy", "upscaled", "suffix"])
def test_foreign_files_under_every_name_are_kept_and_named(
    request: pytest.FixtureRequest, faces: Path, model: Path, capsys: Captured, kind: str
) -> None:
    tmp_path, monkeypatch = faces.parent, request.getfixturevalue("monkeypatch")
    out, source, target, options = tmp_path / "out", faces / "IMG_0001.jpg", tmp_path / "out", ["--aligned"]
    suffix = "_r" if kind == "suffix" else ""
    before = foreign.fill(out, foreign.names_like([*NAMES, "named.jpg"], suffix))
    photographs = foreign.seen(faces)
    if kind in ("folder", "copies", "upscaled", "suffix"):
        source = faces
    if kind.startswith("named"):
        target = out / "named.png"
    if "cop" in kind or kind == "upscaled":
        monkeypatch.setattr(Detector, "load", lambda *_: Told([]))
        options = ["--upscale", "2"] if kind == "upscaled" else []
    if suffix:
        options += ["--suffix", suffix]
    assert _run(source, target, model, *options) == 1
    told = capsys.readouterr()
    failed = 2 if source == faces else 1
    assert told.out.endswith(f" {failed} failed\n")
    lines = told.err.splitlines()
    assert len(lines) == failed
    for line in lines:
        assert line.startswith("failed: ")
        assert "already exists and is not recorded as made by this program" in line
        assert "--on-conflict rename" in line
    assert str(target if kind == "named" else out / "") in lines[0]
    assert foreign.lost(before, out) == []
    assert _files(out) == {name for name in before if not name.startswith(".")}

    # the other way: everything is kept, beside results with numbers, which are known the next time
    renamed = [*options, "--on-conflict", "rename"]
    assert _run(source, target, model, *renamed) == 0
    made = _files(out) - set(before)
    assert len(made) == failed
    assert all(Path(name).stem.endswith("-1") for name in made)
    assert foreign.lost(before, out) == []
    capsys.readouterr()
    after = foreign.seen(out)
    assert _run(source, target, model, *renamed) == 0
    if source == faces:
        assert "0 restored, 0 without a face, 2 skipped" in capsys.readouterr().out
        assert foreign.seen(out) == after
    assert _files(out) == _files(out) | made
    assert foreign.lost(before, out) == []
    assert foreign.seen(faces) == photographs


def test_only_earlier_results_are_replaced(
    faces: Path, tmp_path: Path, model: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Detector, "load", lambda *_: Told([]))
    out, results = tmp_path / "out", {"IMG_0001.jpg.png", "a/two.webp.png"}
    before = foreign.fill(out, ["notes.txt", "IMG_0001.png", "a/two.jpg", "IMG_0001.JPG"])
    for options in ([], ["--upscale", "2"], []):
        seen = foreign.seen(out)
        assert _run(faces, out, model, *options) == 0
        assert _files(out) - set(before) == results
        assert not results & {name for name, digest in foreign.seen(out).items() if seen.get(name) == digest}
    assert foreign.lost(before, out) == []

    # what was edited is the user's: neither replaced nor taken for a result
    (out / "IMG_0001.jpg.png").write_text("retouched")
    (out / "a" / "two.webp.png").unlink()
    capsys.readouterr()
    assert _run(faces, out, model) == 1
    told = capsys.readouterr()
    assert told.out == "0 restored, 1 without a face, 0 skipped, 1 failed\n", "and what was deleted is made again"
    assert f"{out / 'IMG_0001.jpg.png'} has been changed since it was made" in told.err
    assert (out / "IMG_0001.jpg.png").read_text() == "retouched"
    assert _run(faces, out, model, "--on-conflict", "rename") == 0
    assert _files(out) - set(before) == {*results, "IMG_0001.jpg-1.png"}
    (out / "IMG_0001.jpg.png").unlink()
    assert _run(faces, out, model, "--upscale", "2") == 0
    assert _files(out) - set(before) == results, "the one with a number is gone, which was ours"


def test_a_foreign_file_that_is_newer_is_not_taken_for_a_result(
    faces: Path, tmp_path: Path, model: Path, capsys: Captured
) -> None:
    out = tmp_path / "out"
    assert _run(faces / "a", out, model, "--aligned") == 0
    before = foreign.fill(out, ["IMG_0001.jpg.png"])
    capsys.readouterr()
    assert _run(faces, out, model, "--aligned") == 1
    told = capsys.readouterr()
    assert told.out == "1 restored, 0 without a face, 0 skipped, 1 failed\n"
    assert f"{out / 'IMG_0001.jpg.png'} already exists" in told.err
    assert foreign.lost({"IMG_0001.jpg.png": before["IMG_0001.jpg.png"]}, out) == []


def test_of_two_photographs_of_one_name_neither_result_is_lost(
    faces: Path, tmp_path: Path, model: Path, capsys: Captured
) -> None:
    cv2.imwrite(str(faces / "a" / "IMG_0001.jpg"), tiny.face(np.random.default_rng(5))[:, :, ::-1])
    out = tmp_path / "out"
    assert _run(faces / "IMG_0001.jpg", out, model, "--aligned") == 0
    first = foreign.seen(out)
    assert _run(faces / "a" / "IMG_0001.jpg", out, model, "--aligned") == 1
    assert "is the result of ../faces/IMG_0001.jpg" in capsys.readouterr().err
    assert foreign.seen(out) == first
    assert _run(faces / "a" / "IMG_0001.jpg", out, model, "--aligned", "--on-conflict", "rename") == 0
    assert _files(out) == {"IMG_0001.jpg.png", "IMG_0001.jpg-1.png"}
    # one that has moved is no other
    (faces / "IMG_0001.jpg").rename(tmp_path / "IMG_0001.jpg")
    assert _run(tmp_path / "IMG_0001.jpg", out, model, "--aligned", "--side-by-side") == 0
    assert foreign.lost({"IMG_0001.jpg.png": first["IMG_0001.jpg.png"]}, out) == ["IMG_0001.jpg.png"]


def test_a_single_photograph_is_restored_again_over_its_own_result(faces: Path, tmp_path: Path, model: Path) -> None:
    for options in ([], ["--side-by-side"], []):
        assert _run(faces / "IMG_0001.jpg", tmp_path / "out.png", model, "--aligned", *options) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"faces", "out.png", RECORD}


def test_links_and_folders_in_the_way_are_kept(faces: Path, tmp_path: Path, model: Path, capsys: Captured) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere.png"
    out.mkdir()
    elsewhere.write_text("somebody's")
    (out / "a").write_text("a file where a folder has to be")
    for make in (
        lambda path: path.symlink_to(elsewhere),
        lambda path: path.symlink_to(tmp_path / "nowhere"),
        lambda path: path.mkdir(),
    ):
        make(out / "IMG_0001.jpg.png")
        assert _run(faces, out, model, "--aligned") == 1
        told = capsys.readouterr()
        assert told.out == "0 restored, 0 without a face, 0 skipped, 2 failed\n"
        assert f"{out / 'IMG_0001.jpg.png'} is in the way and is not a readable file" in told.err
        assert f"{out / 'a'} is a file where a folder has to be" in told.err
        assert elsewhere.read_text() == "somebody's"
        assert not (tmp_path / "nowhere").exists()
        (out / "IMG_0001.jpg.png").rename(tmp_path / f"kept-{len(list(tmp_path.iterdir()))}")


@pytest.mark.parametrize("content", ["", "{}", '{"aligned": true}\n', "a\nb\n", "link", "folder"])
def test_a_record_that_is_not_ours_is_kept(
    faces: Path, tmp_path: Path, model: Path, capsys: Captured, content: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "notes").write_text("somebody's")
    if content == "link":
        (out / RECORD).symlink_to(tmp_path / "notes")
    elif content == "folder":
        (out / RECORD).mkdir()
    else:
        (out / RECORD).write_text(content)
    before = foreign.seen(tmp_path)
    for source in (faces, faces / "IMG_0001.jpg"):
        assert _run(source, out, model, "--aligned") == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err.startswith(f"error: {out / RECORD} is in the way")
        assert told.err.count("\n") == 1
    assert foreign.seen(tmp_path) == before


def test_what_is_there_with_the_same_content_is_the_users(
    faces: Path, tmp_path: Path, model: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Detector, "load", lambda *_: Told([]))
    out, same = tmp_path / "out", ["--format", "same"]
    out.mkdir()
    (out / "IMG_0001.jpg").write_bytes((faces / "IMG_0001.jpg").read_bytes())
    assert _run(faces, out, model, *same) == 0, "nothing would be another"
    assert _run(faces, out, model, *same) == 0
    assert capsys.readouterr().out.endswith("0 restored, 0 without a face, 2 skipped, 0 failed\n")
    assert _run(faces, out, model, *same, "--upscale", "2") == 1
    assert (out / "IMG_0001.jpg").read_bytes() == (faces / "IMG_0001.jpg").read_bytes()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_folder_that_is_read_only_is_one_line(faces: Path, tmp_path: Path, model: Path, capsys: Captured) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o500)
    assert _run(faces, out, model, "--aligned") == 2
    assert f"error: {out} cannot be written to: Permission denied\n" == capsys.readouterr().err


# --- kills, races and file systems


class KilledError(BaseException):
    """What a kill is to a test."""


def _results(folder: Path, conflict: OnConflict = "stop", exists: Callable[[str], bool] = lambda _: True) -> Results:
    record = FolderRecord(folder)
    return Results(Folder(folder), record, foreign="is foreign", advice="move it", exists=exists, on_conflict=conflict)


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("moment", ["link", "replace", "fsync", "unlink"])
def test_a_kill_at_any_moment_leaves_results_that_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, links: bool
) -> None:
    """At every call of what changes the disk, before it and after it."""
    if not links:
        monkeypatch.setattr(os, "link", _unsupported)
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    for number in range(16):
        folder = tmp_path / f"{number}"
        before = foreign.fill(folder, ["b.png", "a.jpg", "c/a.png"])
        _kill_at(monkeypatch, moment, number // 2, after=bool(number % 2))
        killed = False
        for content in (b"first", b"second", b"third"):
            try:
                _results(folder).write(content, "a.png", "a.jpg")
            except KilledError:
                killed = True
                break
        monkeypatch.undo()
        if not links:
            monkeypatch.setattr(os, "link", _unsupported)
            monkeypatch.delattr(os, "O_TMPFILE", raising=False)
        _results(folder).write(b"again", "a.png", "a.jpg")
        assert (folder / "a.png").read_bytes() == b"again"
        assert foreign.lost(before, folder) == []
        if not killed:
            assert not list(folder.rglob("*.tmp"))
            return
    raise AssertionError("it was killed every time")


def _unsupported(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def _kill_at(monkeypatch: pytest.MonkeyPatch, moment: str, calls: int, *, after: bool) -> None:
    left = [calls]
    owner = Path if moment in ("replace", "unlink") else os
    real = getattr(owner, moment)

    def killing(*given: object, **named: object) -> object:
        left[0] -= 1
        if left[0] == -1 and not after:
            raise KilledError
        result = real(*given, **named)
        if left[0] == -1:
            raise KilledError
        return result

    monkeypatch.setattr(owner, moment, killing)


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_in_the_last_moment_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", _unsupported)
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    create, replaced = Folder.create, Folder.replace

    def late(self: Folder, name: str, *given: object) -> None:
        (self.path / name).write_text("somebody's")
        (create if len(given) == 1 else replaced)(self, name, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Folder, "create", late)
    with pytest.raises(InTheWayError, match=r"a.png already exists and is foreign: move it"):
        _results(tmp_path).write(b"content", "a.png", "a.jpg")
    assert (tmp_path / "a.png").read_text() == "somebody's"
    monkeypatch.setattr(Folder, "create", create)
    _results(tmp_path).write(b"content", "b.png", "b.jpg")
    monkeypatch.setattr(Folder, "replace", late)
    with pytest.raises(InTheWayError):
        _results(tmp_path).write(b"other", "b.png", "b.jpg")
    assert (tmp_path / "b.png").read_text() == "somebody's"


def test_a_result_whose_name_differs_in_capitals_alone_is_kept(tmp_path: Path) -> None:
    """As on file systems that do not tell small letters from capitals: a link stands for their second name."""
    _results(tmp_path).write(b"photograph", "A.png", "A.png")
    os.link(tmp_path / "A.png", tmp_path / "a.png")
    with pytest.raises(InTheWayError):
        _results(tmp_path).write(b"another", "a.png", "a.png")
    assert (tmp_path / "A.png").read_bytes() == b"photograph"


def test_the_record_is_read_whatever_a_kill_has_cut_off(tmp_path: Path) -> None:
    _results(tmp_path).write(b"first", "a.png", "a.jpg")
    record = tmp_path / RECORD
    record.write_bytes(record.read_bytes() + b'{"name": "b.pn')
    _results(tmp_path).write(b"b", "b.png", "b.jpg")
    _results(tmp_path).write(b"second", "a.png", "a.jpg")
    _results(tmp_path).write(b"c", "b.png", "b.jpg")
    assert (tmp_path / "a.png").read_bytes() == b"second"


def test_two_processes_know_of_each_others_results(tmp_path: Path) -> None:
    first, second = _results(tmp_path), _results(tmp_path)
    first.write(b"1", "a.png", "a.jpg")
    second.write(b"2", "a.png", "a.jpg")
    second.write(b"1", "b.png", "b.jpg")
    first.write(b"2", "b.png", "b.jpg")
    assert (tmp_path / "b.png").read_bytes() == b"2"


def test_a_record_is_shortened_and_loses_nothing(tmp_path: Path) -> None:
    early = _results(tmp_path)
    for number in range(700):
        early.write(f"{number % 7}".encode(), "a.png", "a.jpg")
    early.write(b"x", "b.png", "b.jpg")
    (tmp_path / "b.png").unlink()
    size = (tmp_path / RECORD).stat().st_size
    late = _results(tmp_path)
    assert (tmp_path / RECORD).stat().st_size < size / 100
    late.write(b"by the late", "a.png", "a.jpg")
    early.write(b"by the early", "a.png", "a.jpg")
    _results(tmp_path).write(b"by the last", "a.png", "a.jpg")
    assert (tmp_path / "a.png").read_bytes() == b"by the last"


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_in_whatever_order_nothing_of_the_users_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """A user who writes, edits, moves and deletes files, and runs that write results and are killed."""
    rng = random.Random(seed)
    stems, theirs = ["a", "b", "c/a", "c/b"], dict[str, str]()
    for turn in range(120):
        stem = rng.choice(stems)
        name = f"{stem}{rng.choice(['.png', '.jpg', '-1.png', '-1.jpg'])}"
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        event = rng.random()
        if event < 0.25:
            path.write_text(f"somebody's {turn}")
            theirs[name] = path.read_text()
        elif event < 0.35:
            path.unlink(missing_ok=True)
            theirs.pop(name, None)
        elif event < 0.4 and path.is_file():
            other = f"{rng.choice(stems)}.png"
            (tmp_path / other).parent.mkdir(exist_ok=True)
            path.replace(tmp_path / other)
            theirs.pop(other, None)
            if name in theirs:
                theirs[other] = theirs.pop(name)
        else:
            if rng.random() < 0.4:
                kind = rng.choice(["link", "replace", "fsync", "unlink"])
                _kill_at(monkeypatch, kind, rng.randrange(4), after=rng.random() < 0.5)
            kind, source = rng.choice(["jpg", "png"]), f"{stem}.{rng.choice(['jpg', 'jpg', 'jpeg'])}"
            gone = rng.random() < 0.3
            with suppress(KilledError, InTheWayError):
                _results(tmp_path, rng.choice(["stop", "rename"]), lambda _, gone=gone: not gone).write(
                    f"result {rng.randrange(5)}".encode(), f"{stem}.{kind}", source
                )
            monkeypatch.undo()
        assert {each: (tmp_path / each).read_text() for each in theirs} == theirs


# --- other writers


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    _, face = photograph()
    monkeypatch.setattr(Detector, "load", lambda *_: Told([face, replace(face, score=0.98)]))


@pytest.mark.usefixtures("told")
def test_align_keeps_what_it_did_not_write(tmp_path: Path, capsys: Captured) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    (source / "a").mkdir(parents=True)
    for name in ("one.png", "a/two.png"):
        (source / name).write_bytes(encode_png(photograph()[0]))
    names = [
        f"{name}#{number}{ending}" for name in ("one.png", "a/two.png") for number in (0, 1) for ending in (".png",)
    ]
    before = foreign.fill(out, [*names, *foreign.names_like(["one.png", "a/two.png"])])
    command = ["align", str(source), str(out), "--device", "cpu", "--side", "32", "--min-sharpness", "0"]
    assert main(command) == 1
    told = capsys.readouterr()
    assert told.out.startswith("0 crops of 2 photographs")
    assert f"{out / 'one.png#0.png'} already exists and is not recorded as made by this program" in told.err
    assert foreign.lost(before, out) == []
    assert main([*command, "--on-conflict", "rename"]) == 0
    assert _files(out) - set(before) == {
        name.replace(".png#", ".png#").removesuffix(".png") + "-1.png" for name in names
    }
    assert main([*command, "--on-conflict", "rename"]) == 0, "its own are replaced"
    assert foreign.lost(before, out) == []


def test_a_named_file_is_replaced_only_if_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    for content in ("mine", PLACEHOLDER.decode()):
        path.write_text(content)
        told = r"--out .*table.csv already exists: give another name, or --overwrite"
        with pytest.raises(UserError, match=told), write_named(path, "--out", overwrite=False) as temporary:
            temporary.write_text("new")
        assert path.read_text() == content
    with write_named(path, "--out", overwrite=True) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    path.unlink()
    with pytest.raises(UserError, match="already exists"), write_named(path, "--out", overwrite=False) as temporary:
        path.write_text("appeared meanwhile")
    assert path.read_text() == "appeared meanwhile"
    with pytest.raises(UserError, match="it is a folder"), write_named(tmp_path, "--out", overwrite=True):
        pass
    assert {each.name for each in tmp_path.iterdir()} == {"table.csv"}


def test_a_new_folder_takes_no_place(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError), new_folder(tmp_path / "made") as temporary:
        (temporary / "file").write_text("ours")
        (tmp_path / "made").mkdir()
    assert list(tmp_path.iterdir()) == [tmp_path / "made"]
    with new_folder(tmp_path / "other") as temporary:
        (temporary / "file").write_text("ours")
    assert (tmp_path / "other" / "file").read_text() == "ours"
    assert (tmp_path / "other").stat().st_mode == (tmp_path / "made").stat().st_mode


def test_a_temporary_name_is_nobody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = iter([f"{number:016x}" for number in range(2)])
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: next(tokens))
    taken = f".{hashlib.sha256(b'a.png').hexdigest()[:16]}.{0:016x}.tmp"
    (tmp_path / taken).write_text("somebody's")
    with atomic_path(tmp_path / "a.png") as temporary:
        assert temporary.name == taken.replace(f"{0:016x}", f"{1:016x}")
    assert (tmp_path / taken).read_text() == "somebody's"


@pytest.mark.parametrize("command", ["show", "preview", "measure", "fid-statistics", "import", "export"])
def test_a_command_that_writes_one_file_refuses_one_that_exists(
    request: pytest.FixtureRequest, tmp_path: Path, model: Path, capsys: Captured, command: str
) -> None:
    (tmp_path / "images").mkdir()
    for number in range(2):
        image = tiny.face(np.random.default_rng(number), 64)
        (tmp_path / "images" / f"{number}.png").write_bytes(encode_png(image))
    images, face = str(tmp_path / "images"), str(tmp_path / "images" / "0.png")
    suffixes = {"fid-statistics": "npz", "measure": "csv", "export": "ckpt"}
    request.getfixturevalue("monkeypatch").setattr("daefr.data.show.draw_dataset_sheet", lambda *_: image)
    out = tmp_path / f"out.{suffixes.get(command, 'png')}"
    arguments = {
        "show": lambda: ["data", "show", str(request.getfixturevalue("dataset")), "--out", str(out), "--faces", "1"],
        "preview": lambda: [
            "degradations",
            "preview",
            face,
            "--recipe",
            "daefr-mild",
            "--count",
            "1",
            "--out",
            str(out),
        ],
        "measure": lambda: ["measure", images, "--gt", images, "--metrics", "psnr", "--per-image", str(out)],
        "fid-statistics": lambda: ["fid-statistics", images, str(out)],
        "import": lambda: ["import", face, str(out)],
        "export": lambda: ["export", str(model), str(out)],
    }[command]()
    ours = {f".{out.name}.tmp": "", f".{out.name}.{os.getpid()}.tmp": "", out.name: ""}
    foreign.fill(tmp_path, ours)
    for make in (None, lambda: out.symlink_to(tmp_path / "nowhere"), out.mkdir):
        if make is not None:
            out.unlink(missing_ok=True)
            make()
        before = foreign.seen(tmp_path)
        assert main(arguments) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err.count("\n") == 1
        assert str(out) in told.err
        assert foreign.seen(tmp_path) == before
    out.rmdir()
    if command in ("show", "preview", "measure", "export"):
        assert main(arguments) == 0
        before.pop(out.name, None)
        assert foreign.lost(before, tmp_path) == []
        first = out.read_bytes()
        assert main(arguments) == 2, "its own file is one that exists, too"
        if command != "export":
            out.write_text("old")
            assert main([*arguments, "--overwrite"]) == 0
            assert out.read_bytes() == first


def test_checkpoints_are_kept_and_deleted_beside_others_files(tmp_path: Path) -> None:
    before = foreign.fill(
        tmp_path,
        [
            "step-by-step.txt", "step-000000001/notes.txt", "step-1/model.safetensors", ".step-000000003.tmp/a",
            "step-000000099/b", "notes.txt",
        ],
    )  # fmt: skip
    reporter = FolderReporter(tmp_path, keep=1)
    stage = tiny.build("hq_codebook")
    for step in (2, 3, 3, 4):
        reporter.checkpoint(step, lambda folder: save_checkpoint(folder, stage.name, stage.network, stage.weights()))
        reporter.finish()
    found = reporter.resume()
    assert found is not None
    assert found.path == tmp_path / "step-000000004"
    assert not (tmp_path / "step-000000003").exists()
    assert foreign.lost(before, tmp_path) == []
