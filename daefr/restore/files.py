"""Restored photographs of a folder, as files: what `daefr restore` does."""

import errno
import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal, TypeVar

import cv2
import numpy as np

from daefr.errors import UserError
from daefr.files import write_atomically
from daefr.images import find_images
from daefr.restore.photograph import ImageError, Photograph, read_photograph
from daefr.restore.restorer import Restoration, Restorer

Status = Literal["restored", "no face", "skipped", "failed"]
P = TypeVar("P", bound=PurePath)
Key = TypeVar("Key")

SETTINGS = ".restore.json"
"""In a folder of results: what they were made with."""
READERS, AHEAD = 2, 4
MOST_PIXELS = 50_000_000
"""Of the photographs that are restored together, unless one alone has more."""
OF_ONE_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)
"""Errors of writing that have to do with one file's name, and not with the folder or the disk."""


@dataclass(frozen=True)
class Wanted:
    """What is to become of each file.

    `suffix` goes between a result's name and its `.png`. With `side_by_side`, what came in is written to the left of
    what became of it. The others are those of `Restorer`.
    """

    aligned: bool = False
    only_center_face: bool = False
    upscale: int = 1
    suffix: str = ""
    side_by_side: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of one file: where its result is, or why there is none."""

    source: Path
    status: Status
    target: Path | None = None
    problem: str = ""


def list_files(source: Path, target: Path) -> list[Path]:
    """Return a file, or every file below a folder but for results that lie in it.

    Raises `UserError` when there is none, or when results would take the place of photographs.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise UserError(f"{source} does not exist; give an image or a folder of images")
    here, results = source.resolve(), target.resolve()
    if here == results:
        raise UserError(f"{target} holds the photographs themselves; give another folder for the results")
    files = [path for path in find_images(source) if not path.resolve().is_relative_to(results)]
    if not files:
        raise UserError(f"{source} is empty; give an image or a folder of images")
    return files


def restore_files(
    restorer: Restorer, source: Path, target: Path, wanted: Wanted, *, settings: Mapping[str, object], batch: int
) -> Iterator[Outcome]:
    """Restore a file, or every file below a folder, into PNG files below the folder `target`, and yield each outcome.

    A folder's structure is kept. A photograph without a face is copied as it is, under its own suffix. Of a folder,
    what has a result that is newer than itself and was made with the same `settings` is skipped. For a file that
    cannot be restored nothing is written. `batch` photographs are restored together.

    Raises `UserError` when there is nothing to restore, or `target` cannot be written to.
    """
    files = list_files(source, target)
    if source.is_file():
        since, results = None, {source: _result_of_one(source, target, wanted.suffix)}
    else:
        since = _remember(target, settings)
        names = result_names([path.relative_to(source) for path in files], wanted.suffix)
        results = {path: target / names[path.relative_to(source)] for path in files}
    missing = []
    for path, result in results.items():
        done = _done(path, result, since) if since is not None else None
        if done is None:
            missing.append(path)
        else:
            yield Outcome(path, "skipped", done)
    for group in in_groups(_read_ahead(missing), batch):
        restorations = restorer.restore_all(
            [photograph for _, photograph in group if isinstance(photograph, Photograph)],
            aligned=wanted.aligned,
            only_center_face=wanted.only_center_face,
            upscale=wanted.upscale,
        )
        made = iter(restorations)
        for path, photograph in group:
            restoration = photograph if isinstance(photograph, ImageError) else next(made)
            yield _write(path, results[path], restoration, wanted)


def result_names(names: Sequence[P], suffix: str = "") -> dict[P, P]:
    """Return for each relative path that of its result: `a.jpg` becomes `a.png`, or `a.jpg.png` beside an `a.webp`."""
    whole: set[P] = set()
    while True:
        results = {name: name.with_name(f"{name.name if name in whole else name.stem}{suffix}.png") for name in names}
        # some file systems do not tell small letters from capitals
        counts = Counter(str(result).casefold() for result in results.values())
        clashing = {name for name, result in results.items() if counts[str(result).casefold()] > 1} - whole
        if not clashing:
            return results
        whole |= clashing


def _result_of_one(source: Path, target: Path, suffix: str) -> Path:
    result = target if target.suffix.lower() == ".png" else target / f"{source.stem}{suffix}.png"
    if source.resolve() in (result.resolve(), _copy_of(source, result).resolve()):
        raise UserError(f"{result} would take the place of the photograph itself; give another place for the result")
    return result


def _copy_of(source: Path, result: Path) -> Path:
    """Return where a photograph without a face is copied to."""
    return result.with_suffix(source.suffix)


def _remember(target: Path, settings: Mapping[str, object]) -> int:
    """Write what results are made with beside them, unless it is there; return since when, in nanoseconds."""
    path, content = target / SETTINGS, json.dumps(settings, indent=2, sort_keys=True) + "\n"
    try:
        if not path.is_file() or path.read_text(errors="replace") != content:
            write_atomically(path, content.encode())
        return path.stat().st_mtime_ns
    except OSError as error:
        raise UserError(f"{target} cannot be written to: {error.strerror}") from None


def _done(source: Path, result: Path, since: int) -> Path | None:
    """Return the result of an earlier run, if there is one that still holds."""
    try:
        newest = max(source.stat().st_mtime_ns, since)
        for path in (result, _copy_of(source, result)):
            if path.is_file() and path.stat().st_mtime_ns >= newest:
                return path
    except OSError:  # reading or writing it will tell
        pass
    return None


def _read_ahead(files: Iterable[Path]) -> Iterator[tuple[Path, Photograph | ImageError]]:
    """Read photographs in order, the next ones while one is worked on."""
    waiting: deque[tuple[Path, Future[Photograph | ImageError]]] = deque()
    with ThreadPoolExecutor(READERS) as pool:
        for path in files:
            waiting.append((path, pool.submit(_read, path)))
            if len(waiting) > AHEAD:
                first, photograph = waiting.popleft()
                yield first, photograph.result()
        while waiting:
            first, photograph = waiting.popleft()
            yield first, photograph.result()


def _read(path: Path) -> Photograph | ImageError:
    try:
        return read_photograph(path)
    except ImageError as error:
        return error


def in_groups(
    photographs: Iterable[tuple[Key, Photograph | ImageError]], size: int
) -> Iterator[list[tuple[Key, Photograph | ImageError]]]:
    """Put up to `size` photographs together, or fewer large ones."""
    group: list[tuple[Key, Photograph | ImageError]] = []
    pixels = 0
    for path, photograph in photographs:
        more = photograph.pixels[..., 0].size if isinstance(photograph, Photograph) else 0
        if group and (len(group) == size or pixels + more > MOST_PIXELS):
            yield group
            group, pixels = [], 0
        group.append((path, photograph))
        pixels += more
    if group:
        yield group


def _write(source: Path, result: Path, restoration: Restoration | ImageError, wanted: Wanted) -> Outcome:
    if isinstance(restoration, ImageError):
        return Outcome(source, "failed", problem=str(restoration))
    unchanged = restoration.is_unchanged
    target, other = result, _copy_of(source, result)
    if unchanged:
        target, other = other, target
    try:
        write_atomically(target, source.read_bytes() if unchanged else encoded(restoration, wanted.side_by_side))
        if other != target:
            other.unlink(missing_ok=True)  # of a run with other settings
    except OSError as error:
        if error.errno in OF_ONE_NAME:
            return Outcome(source, "failed", problem=f"its result cannot be written: {error.strerror}")
        raise UserError(f"{target} cannot be written: {error.strerror}") from None
    return Outcome(source, "restored" if restoration.faces else "no face", target)


def encoded(restoration: Restoration, beside: bool) -> bytes:
    """Encode a result as PNG, with what came in `beside` it if that is wanted."""
    return side_by_side(restoration).png() if beside else restoration.png()


def side_by_side(restoration: Restoration) -> Photograph:
    """Return what came in, at the size of the result, to the left of the result; without transparency."""
    after = restoration.photograph
    size = (after.pixels.shape[1], after.pixels.shape[0])
    before = restoration.original.pixels
    if before.shape != after.pixels.shape:
        before = np.asarray(cv2.resize(before, size, interpolation=cv2.INTER_CUBIC), np.uint8)
    pixels = np.concatenate([before, after.pixels], axis=1)
    return Photograph(pixels, None, after.profile, after.one_channel)
