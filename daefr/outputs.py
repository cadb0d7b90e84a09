"""Results in a place of the user's, where nothing but earlier results is ever replaced or removed.

A result is recorded by its name and the digest of its content before it gets that name, so that a kill between the two
leaves no result that nobody knows. What is found under a result's name is ours only if it has a digest that is recorded
for that name; what the user has put there, or has edited since, is the user's.
"""

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

from daefr.errors import UserError
from daefr.files import PLACEHOLDER, atomic_path, file_digest, find_in_the_way, write_bytes

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

OnConflict = Literal["stop", "rename"]
RECORD = ".daefr.jsonl"
"""In a folder of results: what was written there."""
_HEADER = {"format": 1, "about": "files that `python -m daefr` made in this folder: no others are replaced or removed"}
_OF_THE_PLACEHOLDER = hashlib.sha256(PLACEHOLDER).hexdigest()
_MOST_NAMES = 10_000


class InTheWayError(Exception):
    """What is not ours has the name of a result. The text is one sentence that names it, and says what can be done."""


@dataclass(frozen=True)
class Entry:
    """One result as it was recorded.

    `result` is the name that its source's result has, and its own `name` another where that was taken.
    `made` is a digest of what the result depends on. `size` and `changed` (in nanoseconds) are the file's; they tell a
    file that was not touched since. What was there already with the same content is not `own`: it is never replaced.
    """

    name: str
    sha256: str
    result: str
    source: str
    made: str = ""
    size: int = -1
    changed: int = -1
    own: bool = True


class Record(Protocol):
    """What is known of earlier results in a place."""

    def of(self, result: str, *, anew: bool = False) -> Sequence[Entry]:
        """Return what is recorded for a result; with `anew`, also what other processes recorded meanwhile."""

    def add(self, entry: Entry) -> None:
        """Record a result that is about to be written: when this returns, it survives a kill."""

    def confirm(self, entry: Entry) -> None:
        """Note what is known of a recorded result once it is written."""


class Place(Protocol):
    """Where results are written: a folder, or a prefix on S3. Names are relative, with slashes.

    Its methods raise `OSError`, `ValueError` for a name that cannot be, and `InTheWayError` for a file in place of one
    of its folders.
    """

    def where(self, name: str) -> str:
        """Return the whole name, for people."""

    def holds(self, name: str) -> bool:
        """Tell whether there is anything under a name."""

    def digest(self, name: str) -> str | None:
        """Return the SHA-256 of a file; None for what is not a readable file, such as a folder or a link."""

    def create(self, name: str, data: bytes) -> None:
        """Write a new file, whole. Raises `FileExistsError` where there is anything, and leaves that as it is."""

    def replace(self, name: str, data: bytes, digest: str) -> None:
        """Write a file in place of that with the digest. Raises `FileExistsError` when it is another by now."""

    def remove(self, name: str) -> None:
        """Remove a file."""

    def describe(self, entry: Entry) -> Entry:
        """Return an entry with what can be told at a glance of the file that was written."""


class Results:
    """The results in a place, by the rules of this module.

    `foreign` says of a file in the way what it is not, and `advice` what can be done. `exists` tells whether a source
    is still there: a result of another one that is must not be lost either. Names that are `reserved` are given to no
    result that had to be renamed.
    """

    def __init__(
        self,
        place: Place,
        record: Record,
        *,
        foreign: str,
        advice: str,
        exists: Callable[[str], bool],
        on_conflict: OnConflict = "stop",
        reserved: Collection[str] = (),
    ) -> None:
        """Hold what the methods need."""
        self._place, self._record, self._exists = place, record, exists
        self._foreign, self._advice = foreign, advice
        self._rename, self._reserved = on_conflict == "rename", reserved

    def find(self, result: str, source: str, made: str) -> str | None:
        """Return the name of a source's result that is still as it was made from the same; None where there is none."""
        for entry in self._record.of(result):
            if (entry.source, entry.made) == (source, made) and self._place.holds(entry.name):
                at_a_glance = entry.size >= 0 and self._place.describe(entry) == entry
                if at_a_glance or self._place.digest(entry.name) == entry.sha256:
                    return entry.name
        return None

    def check(self, result: str, source: str) -> str:
        """Return the name that a result written now would get. Raises `InTheWayError`, before any work is done."""
        return next(name for name in self._names(result) if self._found(name, result, source) is not None)

    def write(self, data: bytes, result: str, source: str, *, made: str = "") -> str:
        """Write the result of a source and return the name that it has: another than `result` where that was taken.

        What earlier runs made for the same result under another name is removed. Raises `InTheWayError`, and what the
        methods of the place raise.
        """
        entry = Entry(result, hashlib.sha256(data).hexdigest(), result, source, made)
        for candidate in self._names(result):
            written = replace(entry, name=candidate)
            found = self._found(candidate, result, source, written.sha256)
            if found is not None and self._write(written, data, found):
                self._remove_others(written)
                return candidate
        raise AssertionError("unreachable")

    def _names(self, name: str) -> Iterator[str]:
        """Yield the names to try, in order; raises `InTheWayError` when there is no other."""
        yield name
        if self._rename:
            path = PurePosixPath(name)
            for number in range(1, _MOST_NAMES):
                other = str(path.with_name(f"{path.stem}-{number}{path.suffix}"))
                if other not in self._reserved:
                    yield other
        raise InTheWayError(f"{self._place.where(name)} is in the way, and so are all other names")

    def _found(self, name: str, result: str, source: str, sha256: str = "") -> str | None:
        """Return the digest of what is under a name and may be replaced, or is the same; empty where there is nothing.

        None where something is in the way, unless that is an error.
        """
        if not self._place.holds(name):
            return ""
        found = self._place.digest(name)
        if found is not None and found == sha256:
            return found
        known = [entry for entry in self._record.of(result, anew=True) if entry.name == name]
        ours = [entry for entry in known if entry.own and found in (entry.sha256, _OF_THE_PLACEHOLDER)]
        others = [entry.source for entry in ours if entry.source != source and self._exists(entry.source)]
        if found is not None and ours and not others:
            return found
        self._refuse(name, found, known, others)
        return None

    def _refuse(self, name: str, found: str | None, known: Sequence[Entry], others: Sequence[str]) -> None:
        """Raise `InTheWayError`, unless another name may be tried."""
        if self._rename:
            return
        where = self._place.where(name)
        if others:
            raise InTheWayError(f"{where} is the result of {others[0]}: {self._advice}")
        if found is None:
            raise InTheWayError(f"{where} is in the way and is not a readable file: {self._advice}")
        if any(entry.own for entry in known):
            raise InTheWayError(f"{where} has been changed since it was made: {self._advice}")
        raise InTheWayError(f"{where} already exists and {self._foreign}: {self._advice}")

    def _write(self, entry: Entry, data: bytes, found: str) -> bool:
        """Write a result where there is nothing, its own content or an earlier one; tell whether it is there then."""
        if found == entry.sha256:  # nothing to do; whose it is stays as it was
            known = [each for each in self._record.of(entry.result, anew=True) if each.name == entry.name]
            entry = replace(entry, own=any(each.own and each.sha256 == found for each in known))
        self._record.add(entry)
        try:
            if not found:
                self._place.create(entry.name, data)
            elif found != entry.sha256:
                self._place.replace(entry.name, data, found)
        except FileExistsError:  # something has come there meanwhile
            self._refuse(entry.name, "", [], [])
            return False
        self._record.confirm(self._place.describe(entry))
        return True

    def _remove_others(self, written: Entry) -> None:
        for name in {entry.name for entry in self._record.of(written.result)} - {written.name}:
            if not self._place.holds(name):
                continue
            found = self._place.digest(name)
            for entry in self._record.of(written.result):
                gone = entry.source == written.source or not self._exists(entry.source)
                if (entry.name, entry.sha256, entry.own) == (name, found, True) and gone:
                    self._place.remove(name)
                    break


@dataclass(frozen=True)
class Folder:
    """A folder as a place of results."""

    path: Path

    def where(self, name: str) -> str:
        """See `Place`."""
        return str(self.path / name)

    def holds(self, name: str) -> bool:
        """See `Place`."""
        return os.path.lexists(self.path / name)

    def digest(self, name: str) -> str | None:
        """See `Place`."""
        path = self.path / name
        try:
            return file_digest(path) if path.is_file() and not path.is_symlink() else None
        except PermissionError:
            return None

    def create(self, name: str, data: bytes) -> None:
        """See `Place`."""
        path = self.path / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            blocking = find_in_the_way(error, path, self.path)
            if blocking is None:
                raise
            raise InTheWayError(f"{blocking} is a file where a folder has to be: move it, or {_ANOTHER}") from None
        write_bytes(path, data)

    def replace(self, name: str, data: bytes, digest: str) -> None:
        """See `Place`."""
        write_bytes(self.path / name, data, instead=lambda: self.digest(name) == digest)

    def remove(self, name: str) -> None:
        """See `Place`."""
        (self.path / name).unlink(missing_ok=True)

    def describe(self, entry: Entry) -> Entry:
        """See `Place`."""
        path = self.path / entry.name
        if path.is_symlink() or not path.is_file():
            return replace(entry, size=-1, changed=-1)
        status = path.stat()
        return replace(entry, size=status.st_size, changed=status.st_mtime_ns)


_ANOTHER = "give another folder"


class FolderRecord:
    """The record of a folder of results: a hidden file there, of a line of JSON for each.

    Lines are added, also by several processes at a time; where most of them are out of date they are left out when the
    record is opened next, unless another process has it open. The last line counts.
    """

    def __init__(self, folder: Path) -> None:
        """Read what is recorded; nothing is made yet. Raises `UserError` when the record is not of this program."""
        self.path = folder / RECORD
        self._entries = dict[str, dict[tuple[str, str], Entry]]()
        self._read, self._inode, self._lines, self._added = 0, 0, 0, False
        self._refresh()
        if self._lines > 1000 + 4 * len({name for each in self._entries.values() for name, _ in each}):
            self._shorten()

    def of(self, result: str, *, anew: bool = False) -> Sequence[Entry]:
        """See `Record`."""
        if anew:
            self._refresh()
        return list(self._entries.get(result, {}).values())

    def add(self, entry: Entry) -> None:
        """See `Record`. Raises `OSError`."""
        self._append(entry, lasting=True)

    def confirm(self, entry: Entry) -> None:
        """See `Record`. Raises `OSError`."""
        self._append(entry, lasting=False)

    def begin(self) -> None:
        """Make folder and record, if they are not there, so that no work is lost where they cannot be."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._read == 0:
            with contextlib.suppress(FileExistsError):
                write_bytes(self.path, json.dumps(_HEADER).encode() + b"\n")
            self._refresh()
        os.close(self._open())

    def _append(self, entry: Entry, *, lasting: bool) -> None:
        if self._read == 0:
            self.begin()
        descriptor = self._open()
        try:
            # after a line that a kill has cut off, and that is passed over
            start = b"" if self._added else b"\n"
            os.write(descriptor, start + format_entry(entry))
            if lasting:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._added = True
        self._keep(entry)

    def _open(self) -> int:
        """Open the record to add to it, once no other process shortens it."""
        while True:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0))
            if fcntl is None:
                return descriptor
            with contextlib.suppress(OSError):  # there are file systems without locks
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            if os.path.samestat(os.fstat(descriptor), self.path.stat()):
                return descriptor
            os.close(descriptor)

    def _refresh(self) -> None:
        """Read what was added since the last time."""
        if not os.path.lexists(self.path):
            return
        if self.path.is_symlink() or not self.path.is_file():
            raise self._not_ours()
        try:
            with self.path.open("rb") as stream:
                inode = os.fstat(stream.fileno()).st_ino
                if inode != self._inode:  # it was shortened, or is read for the first time
                    self._read, self._inode = 0, inode
                stream.seek(self._read)
                data = stream.read()
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {error.strerror}") from None
        if self._read == 0 and data == PLACEHOLDER:  # a kill left it
            self.path.unlink()
            return
        whole = data[: data.rfind(b"\n") + 1]
        lines = whole.splitlines()
        if self._read == 0 and (not lines or _parsed(lines[0]) != _HEADER):
            raise self._not_ours()
        for line in lines if self._read else lines[1:]:
            entry = parse_entry(line)
            if entry is not None:
                self._keep(entry)
                self._lines += 1
        self._read += len(whole)

    def _keep(self, entry: Entry) -> None:
        self._entries.setdefault(entry.result, {})[entry.name, entry.sha256] = entry

    def _shorten(self) -> None:
        """Leave out what is out of date: all digests of a file but that of what is there."""
        if fcntl is None:
            return
        with contextlib.suppress(OSError), self.path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._refresh()
            with atomic_path(self.path) as temporary, temporary.open("wb") as target:
                target.write(json.dumps(_HEADER).encode() + b"\n")
                target.writelines(format_entry(entry) for entry in self._current())
                target.flush()
                os.fsync(target.fileno())
            self._entries.clear()
            self._refresh()

    def _current(self) -> Iterator[Entry]:
        """Yield the entries of what is there."""
        place = Folder(self.path.parent)
        counts = Counter(entry.name for each in self._entries.values() for entry in each.values())
        for entry in [entry for each in self._entries.values() for entry in each.values()]:
            if place.holds(entry.name) and (counts[entry.name] == 1 or place.digest(entry.name) == entry.sha256):
                yield entry

    def _not_ours(self) -> UserError:
        return UserError(
            f"{self.path} is in the way: the list of results is kept there, and this is none; move it, or {_ANOTHER}"
        )


def path_from(source: Path, folder: Path) -> str:
    """Return the path of a source as seen from a folder of results, which holds when both are moved together."""
    whole = source.parent.resolve() / source.name
    try:
        return Path(os.path.relpath(whole, folder.resolve())).as_posix()
    except ValueError:  # another drive
        return whole.as_posix()


_DEFAULTS: dict[str, tuple[Any, ...]] = {
    field.name: (field.default,) if isinstance(field.default, str | int) else () for field in fields(Entry)
}


def format_entry(entry: Entry) -> bytes:
    """Return an entry as a line of JSON."""
    shortly = {key: value for key, value in asdict(entry).items() if value not in _DEFAULTS[key]}
    return json.dumps(shortly).encode() + b"\n"


def parse_entry(line: bytes) -> Entry | None:
    """Return the entry in a line; None where there is none, as where a kill has cut it off."""
    with contextlib.suppress(TypeError):
        return Entry(**_parsed(line))
    return None


def _parsed(line: bytes) -> Any:
    with contextlib.suppress(ValueError):
        return json.loads(line)
    return None
