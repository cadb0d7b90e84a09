"""What the steps of a run directory wrote elsewhere: a database for each place, and a journal for each worker.

Workers are on other machines, where SQLite's locks do not reach: each writes what it is about to write into a file of
its own, which the next job reads into the database. See `daefr.outputs` for what is recorded, and why.
"""

import hashlib
import os
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from daefr.outputs import Entry, OnConflict, Record, Results, format_entry, parse_entry
from pipelines.storage.files import File, exists, open_place

FOLDER, DATABASE, JOURNALS, TAKEN = "results", "written.db", "*.jsonl", ".taken"
_TABLE = """
CREATE TABLE IF NOT EXISTS written (
    result BLOB NOT NULL, name BLOB NOT NULL, sha256 TEXT NOT NULL, source BLOB NOT NULL, own INTEGER NOT NULL,
    PRIMARY KEY (result, name, sha256)
) WITHOUT ROWID
"""
_ADD = """
INSERT INTO written VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET source = excluded.source, own = max(own, excluded.own)
"""
_MEMBER = "!/"
_SECONDS_TO_WAIT = 60.0  # for another process that reads or writes


class Written:
    """The record of what was written to a place, for the process that starts a step; it is a `daefr.outputs.Record`."""

    def __init__(self, folder: Path) -> None:
        """Open the record in a folder, or begin one."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        with self._open() as database, database:
            database.execute(_TABLE)

    @classmethod
    def of_place(cls, workdir: Path, place: str) -> "Written":
        """Open the record of a place in a run directory, with what workers have journaled."""
        written = cls(folder_of(workdir, place))
        for journal in written._folder.glob(JOURNALS):
            with suppress(FileNotFoundError):  # another process takes it
                journal.rename(journal.with_suffix(TAKEN))
        for journal in written._folder.glob(f"*{TAKEN}"):
            with suppress(FileNotFoundError):
                with journal.open("rb") as stream:
                    written._add(entry for entry in map(parse_entry, stream) if entry is not None)
                journal.unlink()
        return written

    def of(self, result: str, *, anew: bool = False) -> Sequence[Entry]:  # noqa: ARG002  # the database is always new
        """See `Record`."""
        return self.of_all([result])

    def of_all(self, results: Iterable[str]) -> list[Entry]:
        """Return what is recorded for some results."""
        with self._open() as database:
            rows = [
                row
                for result in results
                for row in database.execute("SELECT * FROM written WHERE result = ?", [os.fsencode(result)])
            ]
        return [
            Entry(os.fsdecode(name), sha256, os.fsdecode(result), os.fsdecode(source), own=bool(own))
            for result, name, sha256, source, own in rows
        ]

    def add(self, entry: Entry) -> None:
        """See `Record`."""
        self._add([entry])

    def confirm(self, entry: Entry) -> None:
        """See `Record`; there is nothing more to note."""

    def _add(self, entries: Iterable[Entry]) -> None:
        with self._open() as database, database:
            database.executemany(
                _ADD,
                (
                    (*map(os.fsencode, (each.result, each.name)), each.sha256, os.fsencode(each.source), each.own)
                    for each in entries
                ),
            )

    def _open(self) -> closing[sqlite3.Connection]:
        return closing(sqlite3.connect(self._folder / DATABASE, timeout=_SECONDS_TO_WAIT))


class Journal:
    """What one worker writes, and what it is told of earlier results; it is a `daefr.outputs.Record`.

    It holds what is known of the results that are written now, and no others. Only where something is in the way it
    looks into all workers' journals, and remembers where in them each result is.
    """

    def __init__(self, folder: Path) -> None:
        """Begin a journal in the folder of a place's record."""
        self._folder, self._path = folder, folder / f"{uuid.uuid4().hex}.jsonl"
        self._known = dict[str, dict[tuple[str, str], Entry]]()
        self._places = dict[int, tuple[tuple[Path, int], ...]]()
        self._read = dict[Path, int]()

    def learn(self, entries: Iterable[Entry]) -> None:
        """Take what is recorded of the results that are to be written now, instead of what was known of others."""
        self._known.clear()
        self._remember(entries)

    def of(self, result: str, *, anew: bool = False) -> Sequence[Entry]:
        """See `Record`. Another worker, which died before it told what it had written, left a journal too."""
        if anew:
            self._remember(self._journaled(result))
        return list(self._known.get(result, {}).values())

    def add(self, entry: Entry) -> None:
        """See `Record`. Raises `OSError`."""
        with self._path.open("ab") as stream:
            stream.write(format_entry(entry))
            stream.flush()
            os.fsync(stream.fileno())
        self._remember([entry])

    def confirm(self, entry: Entry) -> None:
        """See `Record`; there is nothing more to note."""

    def _remember(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            known = self._known.setdefault(entry.result, {})
            before = known.get((entry.name, entry.sha256))
            known[entry.name, entry.sha256] = replace(entry, own=entry.own or (before is not None and before.own))

    def _journaled(self, result: str) -> Iterator[Entry]:
        for path in self._folder.glob(JOURNALS):
            with suppress(FileNotFoundError), path.open("rb") as stream:
                stream.seek(self._read.get(path, 0))
                for line in stream:
                    if not line.endswith(b"\n"):  # it is being written, or a kill has cut it off
                        break
                    start = self._read.get(path, 0)
                    self._read[path] = start + len(line)
                    entry = parse_entry(line)
                    if entry is not None:
                        key = hash(entry.result)
                        self._places[key] = (*self._places.get(key, ()), (path, start))
        for path, start in self._places.get(hash(result), ()):
            with suppress(FileNotFoundError), path.open("rb") as stream:
                stream.seek(start)
                entry = parse_entry(stream.readline())
                if entry is not None and entry.result == result:
                    yield entry


def folder_of(workdir: Path, place: str) -> Path:
    """Return the folder in a run directory with the record of a place."""
    return workdir / FOLDER / hashlib.sha256(os.fsencode(place)).hexdigest()[:16]


def open_results(place: str, record: Record, workdir: Path, advice: str, on_conflict: OnConflict = "stop") -> Results:
    """Return the results of a place, where nothing is replaced or removed but what is recorded.

    `advice` tells what can be done where something else is in the way.
    """
    return Results(
        open_place(place),
        record,
        foreign=f"is not recorded in {workdir} as made there",
        advice=advice,
        exists=source_exists,
        on_conflict=on_conflict,
    )


def source_of(file: File) -> str:
    """Return what the source of a result is called in the record."""
    return file.path if file.offset is None else f"{file.path}{_MEMBER}{file.name}"


def source_exists(source: str) -> bool:
    """Tell whether a source is still there."""
    return exists(source) or (_MEMBER in source and exists(source.partition(_MEMBER)[0]))
