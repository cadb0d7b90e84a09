"""Restored photographs of a folder, as files: what `python -m daefr restore` does."""

import errno
import hashlib
import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal, TypeVar

import cv2
import numpy as np

from daefr.data.images import find_images
from daefr.errors import UserError
from daefr.outputs import Folder, FolderRecord, InTheWayError, OnConflict, Results, path_from
from daefr.restore.photograph import ImageError, Photograph, read_photograph
from daefr.restore.restorer import Restoration, Restorer

Status = Literal["restored", "no face", "skipped", "failed"]
P = TypeVar("P", bound=PurePath)
Key = TypeVar("Key")

READERS, AHEAD = 2, 4
MOST_PIXELS = 50_000_000
"""Of the photographs that are restored together, unless one alone has more."""
OF_ONE_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)
"""Errors of writing that have to do with one file's name, and not with the folder or the disk."""


@dataclass(frozen=True)
class Wanted:
    """What is to become of each file.

    `suffix` goes between a result's name and its `.png`. With `side_by_side`, what came in is written to the left of
    what became of it. What has a result's name and was not made here stops the photograph, or with `on_conflict` as
    `rename` the result gets a name with a number, such as `face-1.png`. The others are those of `Restorer`.
    """

    aligned: bool = False
    only_center_face: bool = False
    upscale: int = 1
    suffix: str = ""
    side_by_side: bool = False
    on_conflict: OnConflict = "stop"


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
    what was made before of the same photograph with the same `settings` is skipped. For a file that cannot be restored
    nothing is written. `batch` photographs are restored together. What was written is recorded in a hidden file in
    `target`, and nothing else is ever replaced or removed; see `daefr.outputs`.

    Raises `UserError` when there is nothing to restore, or `target` cannot be written to.
    """
    files = list_files(source, target)
    of_folder = not source.is_file()
    if of_folder:
        names = result_names([path.relative_to(source) for path in files], wanted.suffix)
        results = {path: target / names[path.relative_to(source)] for path in files}
    else:
        results = {source: _result_of_one(source, target, wanted.suffix)}
        target = results[source].parent
    written = _Written(target, results, wanted, settings)
    if of_folder:
        written.begin()
    missing = []
    for path in files:
        done = written.find(path) if of_folder else None
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
            yield written.write(path, restoration)


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


class _Written:
    """The results in a folder, by their photographs."""

    def __init__(
        self, folder: Path, results: Mapping[Path, Path], wanted: Wanted, settings: Mapping[str, object]
    ) -> None:
        """Read what earlier runs recorded there. Raises `UserError` when the record is not theirs."""
        self._folder, self._wanted, self._settings = folder, wanted, settings
        self._names = {source: result.relative_to(folder).as_posix() for source, result in results.items()}
        self._made = dict[Path, str]()
        for source in results:  # before it is read
            with suppress(OSError):  # reading it will tell
                self._made_of(source)
        self._record = FolderRecord(folder)
        self._results = Results(
            Folder(folder),
            self._record,
            foreign="is not recorded as made by this program",
            advice="move it, give another folder for the results, or --on-conflict rename to keep both",
            exists=lambda name: (folder / name).exists(),
            on_conflict=wanted.on_conflict,
            reserved=set(self._names.values()),
        )

    def begin(self) -> None:
        """Make folder and record. Raises `UserError` when they cannot be."""
        try:
            self._record.begin()
        except OSError as error:
            raise UserError(f"{self._folder} cannot be written to: {error.strerror}") from None

    def find(self, source: Path) -> Path | None:
        """Return the result of an earlier run, if there is one that still holds."""
        found = None
        with suppress(OSError):  # reading or writing it will tell
            found = self._results.find(self._names[source], self._name_of(source), self._made_of(source))
        return None if found is None else self._folder / found

    def write(self, source: Path, restoration: Restoration | ImageError) -> Outcome:
        """Write a result, unless something else has its place."""
        if isinstance(restoration, ImageError):
            return Outcome(source, "failed", problem=str(restoration))
        result, unchanged = self._names[source], restoration.is_unchanged
        name = Path(result).with_suffix(source.suffix).as_posix() if unchanged else result
        try:
            data = source.read_bytes() if unchanged else encoded(restoration, self._wanted.side_by_side)
            written = self._results.write(data, result, self._name_of(source), name=name, made=self._made_of(source))
        except InTheWayError as error:
            return Outcome(source, "failed", problem=str(error))
        except OSError as error:
            if error.errno in OF_ONE_NAME:
                return Outcome(source, "failed", problem=f"its result cannot be written: {error.strerror}")
            raise UserError(f"{self._folder / name} cannot be written: {error.strerror}") from None
        return Outcome(source, "restored" if restoration.faces else "no face", self._folder / written)

    def _name_of(self, source: Path) -> str:
        return path_from(source, self._folder)

    def _made_of(self, source: Path) -> str:
        """Return a digest of what a result depends on; the first that is asked for, as a photograph may change."""
        if source not in self._made:
            status = source.stat()
            depends = [status.st_size, status.st_mtime_ns, dict(self._settings)]
            self._made[source] = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()
        return self._made[source]


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
