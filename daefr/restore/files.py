"""Restored photographs of a folder, as files: what `daefr restore` does."""

import errno
import hashlib
import json
import mimetypes
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import cv2
import numpy as np

from daefr.errors import UserError
from daefr.listing import PassedOver, list_images
from daefr.outputs import Folder, FolderRecord, InTheWayError, OnConflict, Results, path_from
from daefr.photographs import ImageError, Photograph, read_photograph
from daefr.restore.encode import encode
from daefr.restore.metadata import Description, read_description, type_of_content
from daefr.restore.names import SUFFIXES, result_name, result_type, type_of_name
from daefr.restore.restorer import Restoration, Restorer
from daefr.settings.images import IMAGE_SUFFIXES, Pages
from daefr.settings.restore import Format, ImageType, Metadata

Status = Literal["restored", "no face", "skipped", "failed"]
Key = TypeVar("Key")

READERS, AHEAD = 2, 4
MOST_PIXELS = 50_000_000
"""Of the photographs that are restored together, unless one alone has more."""
OF_ONE_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)
"""Errors of writing that have to do with one file's name, and not with the folder or the disk."""


@dataclass(frozen=True)
class Wanted:
    """What is to become of each file.

    `format` is the results' type: by default PNG, or what the name of a single result says. `metadata` is what of the
    source's goes into them. `suffix` goes before the last suffix of a result's name. With `side_by_side`, what came in
    is written to the left of what became of it. What has a result's name and was not made here stops the photograph, or
    with `on_conflict` as `rename` the result gets a name with a number, such as `face-1.png`. The others are those of
    `Restorer`.
    """

    aligned: bool = False
    only_center_face: bool = False
    upscale: int = 1
    format: Format | None = None
    metadata: Metadata = "none"
    suffix: str = ""
    side_by_side: bool = False
    on_conflict: OnConflict = "stop"
    pages: Pages = "first"


@dataclass(frozen=True)
class Outcome:
    """What became of one file: where its result is, or why there is none.

    `pages_left`: how many pages were not looked at. `faces`: how many were restored, where that is known.
    """

    source: Path
    status: Status
    target: Path | None = None
    problem: str = ""
    pages_left: int = 0
    faces: int | None = None


def list_files(source: Path, target: Path, passed_over: PassedOver | None = None) -> list[Path]:
    """Return a file, or every image below a folder but for results that lie in it; see `daefr.listing`.

    Raises `UserError` when there is none, or when results would take the place of photographs.
    """
    if source.is_dir() and source.resolve() == target.resolve():
        raise UserError(f"{target} holds the photographs themselves; give another folder for the results")
    return list_images(source, passed_over or PassedOver(), without=target)


def plan_results(source: Path, target: Path, wanted: Wanted, passed_over: PassedOver | None = None) -> dict[Path, Path]:
    """Return the file of each photograph's result: below the folder `target`, or of one photograph the file so named.

    Raises `UserError` like `list_files`, and for a `target` that is named like a file that cannot be made.
    """
    files = list_files(source, target, passed_over)
    is_named = mimetypes.guess_type(target.name)[0] is not None or target.name.lower().endswith(IMAGE_SUFFIXES)
    if is_named and not target.is_dir():
        return {source: _named_result(source, target, wanted)}
    names = {path: path.name if path == source else path.relative_to(source).as_posix() for path in files}
    wanted_format = wanted.format or "png"
    results = {path: target / result_name(name, wanted_format, wanted.suffix) for path, name in names.items()}
    if source.is_file():
        _check_apart(source, results[source])
    return results


def _named_result(source: Path, target: Path, wanted: Wanted) -> Path:
    if not source.is_file():
        raise UserError(f"{target} is named like a file, but {source} is a folder: give a folder for the results")
    kind = type_of_name(target.name)
    if kind is None:
        raise UserError(f"{target} is named like a file that is not made: results are {', '.join(SUFFIXES)}")
    if wanted.format is not None and kind != result_type(source.name, wanted.format):
        raise UserError(f"{target} is named like another type than the format {wanted.format}: leave out one of them")
    _check_apart(source, target)
    return target


def _check_apart(source: Path, result: Path) -> None:
    if source.resolve() == result.resolve():
        raise UserError(f"{result} would take the place of the photograph itself; give another place for the result")


def restore_files(
    restorer: Restorer, source: Path, target: Path, wanted: Wanted, *, settings: Mapping[str, object], batch: int
) -> Iterator[Outcome]:
    """Restore a file, or every image below a folder, into files below the folder `target`, and yield each outcome.

    A folder's structure is kept; for results' names see `daefr.restore.names`. A photograph without a face is copied,
    byte for byte where it is of the result's type. Of a folder, what was made before of the same photograph with the
    same `settings` is skipped. For a file that cannot be restored nothing is written. `batch` photographs are restored
    together. What was written is recorded in a hidden file in `target`, and nothing else is ever replaced or removed;
    see `daefr.outputs`.

    Raises `UserError` when there is nothing to restore, or `target` cannot be written to.
    """
    results = plan_results(source, target, wanted)
    of_folder = not source.is_file()
    written = _Written(target if of_folder else results[source].parent, results, wanted, settings)
    if of_folder:
        written.begin()
    missing = []
    for path in results:
        done = written.find(path) if of_folder else None
        if done is None:
            missing.append(path)
        else:
            yield Outcome(path, "skipped", done)
    for group in in_groups(_read_ahead(missing, wanted.pages), batch):
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


def _read_ahead(files: Iterable[Path], pages: Pages) -> Iterator[tuple[Path, Photograph | ImageError]]:
    """Read photographs in order, the next ones while one is worked on."""
    waiting: deque[tuple[Path, Future[Photograph | ImageError]]] = deque()
    with ThreadPoolExecutor(READERS) as pool:
        for path in files:
            waiting.append((path, pool.submit(_read, path, pages)))
            if len(waiting) > AHEAD:
                first, photograph = waiting.popleft()
                yield first, photograph.result()
        while waiting:
            first, photograph = waiting.popleft()
            yield first, photograph.result()


def _read(path: Path, pages: Pages) -> Photograph | ImageError:
    try:
        return read_photograph(path, pages=pages)
    except ImageError as error:
        return error


def in_groups(
    photographs: Iterable[tuple[Key, Photograph | ImageError]], size: int
) -> Iterator[list[tuple[Key, Photograph | ImageError]]]:
    """Put up to `size` photographs together, or fewer large ones."""
    group: list[tuple[Key, Photograph | ImageError]] = []
    pixels = 0
    for path, photograph in photographs:
        more = photograph.pixel_count if isinstance(photograph, Photograph) else 0
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
        name = self._names[source]
        try:
            data = encode_result(restoration, source, kind_of(name), self._wanted.metadata, self._wanted.side_by_side)
            written = self._results.write(data, name, self._name_of(source), made=self._made_of(source))
        except (ImageError, InTheWayError) as error:
            return Outcome(source, "failed", problem=str(error))
        except OSError as error:
            if error.errno in OF_ONE_NAME:
                return Outcome(source, "failed", problem=f"its result cannot be written: {error.strerror}")
            raise UserError(f"{self._folder / name} cannot be written: {error.strerror}") from None
        faces = restoration.face_count
        status: Status = "restored" if faces else "no face"
        return Outcome(source, status, self._folder / written, pages_left=restoration.pages_left, faces=faces)

    def _name_of(self, source: Path) -> str:
        return path_from(source, self._folder)

    def _made_of(self, source: Path) -> str:
        """Return a digest of what a result depends on; the first that is asked for, as a photograph may change."""
        if source not in self._made:
            status = source.stat()
            depends = [status.st_size, status.st_mtime_ns, dict(self._settings)]
            self._made[source] = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()
        return self._made[source]


def kind_of(result: str) -> ImageType:
    """Return the type of a result, which its name says."""
    return type_of_name(result) or "png"


def encode_result(
    restoration: Restoration, source: Path | bytes, kind: ImageType, metadata: Metadata = "none", beside: bool = False
) -> bytes:
    """Encode a result, with what came in `beside` it if that is wanted.

    A photograph that was not changed is the file it was, if that is of the type. Raises `ImageError` for one that the
    type has no room for, and `OSError` when the source is gone.
    """
    if not restoration.is_unchanged and metadata == "none":
        about = Description()
    else:
        data = source if isinstance(source, bytes) else source.read_bytes()
        if restoration.is_unchanged and type_of_content(data) == kind:
            return data
        about = read_description(data, metadata)
    beside = beside and not restoration.is_unchanged
    pages = [side_by_side(page) if beside else page.photograph for page in (restoration, *restoration.further)]
    return encode(replace(pages[0], further=tuple(pages[1:])), kind, about)


def side_by_side(restoration: Restoration) -> Photograph:
    """Return what came in, at the size of the result, to the left of the result; without transparency."""
    original, after = restoration.original, restoration.photograph
    # an aligned crop becomes sRGB
    is_alike = (original.profile, original.pixels.dtype) == (after.profile, after.pixels.dtype)
    before = original.seen if is_alike else original.srgb
    if before.shape != after.pixels.shape:
        size = (after.pixels.shape[1], after.pixels.shape[0])
        before = np.asarray(cv2.resize(before, size, interpolation=cv2.INTER_CUBIC), before.dtype)
    return replace(after, pixels=np.concatenate([before, after.seen], axis=1), alpha=None)
