"""What becomes of every input of a job, in a file that survives the job: listed, then finished one by one.

SQLite holds it, so that millions of inputs take no memory, and what is recorded is recorded whatever is killed next.
"""

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from daefr.errors import UserError
from daefr.files import atomic_path
from pipelines.storage.files import File

Status = Literal["restored", "no face", "failed"]
STATUSES: tuple[str, ...] = get_args(Status)

_TABLES = """
CREATE TABLE IF NOT EXISTS inputs (
    number INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE, path BLOB NOT NULL, size INTEGER NOT NULL,
    stamp TEXT NOT NULL, offset INTEGER, listed INTEGER NOT NULL,
    wanted BLOB NOT NULL,
    result BLOB, status TEXT, faces INTEGER, reason TEXT, written BLOB, file BLOB,
    pages_left INTEGER
);
CREATE INDEX IF NOT EXISTS results ON inputs (wanted);
CREATE INDEX IF NOT EXISTS statuses ON inputs (status);
"""
# an input that has changed since it was finished is not finished
_LIST = """
INSERT INTO inputs (name, path, size, stamp, offset, listed, wanted) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET
    status = CASE WHEN size = excluded.size AND stamp = excluded.stamp THEN status END,
    path = excluded.path, size = excluded.size, stamp = excluded.stamp, offset = excluded.offset,
    listed = excluded.listed, wanted = excluded.wanted
"""
_SECONDS_TO_WAIT = 60.0  # for another process that reads or writes


class Input(NamedTuple):
    """One input: its number, which it keeps, its file, and the name of its result."""

    number: int
    file: File
    result: str


class Outcome(NamedTuple):
    """What became of an input: where its result is and how many faces it has, or why it failed.

    `file` is the shard that has the result, empty where that is a file of its own. `pages_left` is how many pages or
    frames of the input were not looked at.
    """

    number: int
    status: Status
    written: str = ""
    faces: int = 0
    reason: str = ""
    file: str = ""
    pages_left: int = 0


class Ledger:
    """The inputs of one job, by number."""

    def __init__(self, path: Path) -> None:
        """Open the ledger at `path`, or begin one."""
        self.path = path
        with self._open() as database, database:
            database.executescript(_TABLES)

    def plan(self, files: Iterable[File], result_of: Callable[[str], str]) -> None:
        """Take the inputs from a listing: new ones are added, changed ones are to be done again, others are forgotten.

        Inputs that failed are to be tried again. `result_of` gives the name of an input's result. Raises `UserError`
        where two have the same, as objects of S3 whose keys differ in slashes at the beginning.
        """

        def row(file: File) -> tuple[Any, ...]:
            place = os.fsencode(file.name), os.fsencode(file.path)
            return *place, file.size, file.stamp, file.offset, listed, os.fsencode(result_of(file.name))

        with self._open() as database, database:
            listed = 1 + (database.execute("SELECT max(listed) FROM inputs").fetchone()[0] or 0)
            database.executemany(_LIST, map(row, files))
            database.execute("DELETE FROM inputs WHERE listed < ?", [listed])
            twice = "SELECT min(name), max(name) FROM inputs GROUP BY wanted HAVING count(*) > 1 LIMIT 1"
            same = database.execute(twice).fetchone()
            if same:
                raise UserError(f"{' and '.join(map(os.fsdecode, same))} would have the same result: rename one")
            database.execute("UPDATE inputs SET status = NULL WHERE status = 'failed'")
            database.execute("UPDATE inputs SET status = NULL, result = wanted WHERE result IS NOT wanted")

    def forget_missing(self, present: Iterable[str]) -> int:
        """Have the inputs done again whose results are not among the files that are `present`; return how many."""
        with self._open() as database, database:
            database.execute("CREATE TEMP TABLE present (name BLOB PRIMARY KEY) WITHOUT ROWID")
            database.executemany("INSERT OR IGNORE INTO present VALUES (?)", ([os.fsencode(name)] for name in present))
            missing = "UPDATE inputs SET status = NULL WHERE status IN (?, ?) AND file NOT IN present"
            return database.execute(missing, ["restored", "no face"]).rowcount

    def begin(self, size: int, whole: bool) -> int:
        """Note which inputs are unfinished now, for `groups` to tell; return how many groups of `size` have any.

        When groups are done as a whole, the finished inputs of such a group are to be done again with the others.
        """
        # a group goes by the numbers, so the same inputs are in the same group at every start
        with self._open() as database, database:
            database.execute("DROP TABLE IF EXISTS unfinished")
            database.execute(
                "CREATE TABLE unfinished AS SELECT number, (number - 1) / ? AS place FROM inputs WHERE status IS NULL",
                [size],
            )
            if whole:
                database.execute(
                    "INSERT INTO unfinished SELECT number, (number - 1) / :size AS part FROM inputs "
                    "WHERE status IS NOT NULL AND part IN (SELECT place FROM unfinished)",
                    {"size": size},
                )
            database.execute("CREATE INDEX places ON unfinished (number)")
            count = database.execute("SELECT count(DISTINCT place) FROM unfinished").fetchone()[0]
        return int(count)

    def groups(self, size: int) -> Iterator[list[Input]]:
        """Yield the inputs that were unfinished when `begin` was called, a group at a time: again, the same ones."""
        last = 0
        while True:
            with self._open() as database:
                # one short query a group: a long one would keep the job from recording
                found = database.execute("SELECT min(number) FROM unfinished WHERE number > ?", [last]).fetchone()[0]
                if found is None:
                    return
                last = (found - 1) // size * size + size
                rows = database.execute(
                    "SELECT number, name, path, size, stamp, offset, result FROM inputs JOIN unfinished USING (number) "
                    "WHERE number BETWEEN ? AND ? ORDER BY number",
                    [found, last],
                ).fetchall()
            yield [
                Input(number, File(os.fsdecode(name), os.fsdecode(path), bytes_, stamp, offset), os.fsdecode(result))
                for number, name, path, bytes_, stamp, offset, result in rows
            ]

    def record(self, outcomes: Iterable[Outcome]) -> None:
        """Record what became of some inputs."""
        with self._open() as database, database:
            database.executemany(
                "UPDATE inputs SET status = ?, written = ?, file = ?, faces = ?, reason = ?, pages_left = ? "
                "WHERE number = ?",
                (
                    (
                        done.status,
                        os.fsencode(done.written),
                        os.fsencode(done.file or done.written),
                        done.faces,
                        done.reason,
                        done.pages_left,
                        done.number,
                    )
                    for done in outcomes
                ),
            )

    def counts(self) -> dict[str, int]:
        """Return how many inputs there are, how many of each status, and how many are unfinished."""
        with self._open() as database:
            found = dict(database.execute("SELECT status, count(*) FROM inputs GROUP BY status"))
        counts = {status: found.get(status, 0) for status in STATUSES}
        return {"inputs": sum(found.values()), **counts, "unfinished": found.get(None, 0)}

    def lose_unfinished(self, reason: str) -> None:
        """Record the inputs that nothing came back from as failed."""
        with self._open() as database, database:
            database.execute("UPDATE inputs SET status = 'failed', reason = ? WHERE status IS NULL", [reason])

    def write(self, path: Path) -> None:
        """Write every input in a line of JSON, by name, under a temporary name first."""
        with self._open() as database, atomic_path(path) as temporary, temporary.open("w") as stream:
            for name, status, written, faces, reason, pages_left in database.execute(
                "SELECT name, status, written, faces, reason, pages_left FROM inputs ORDER BY name"
            ):
                line = {"source": os.fsdecode(name), "status": status}
                line |= {"reason": reason} if status == "failed" else {"result": os.fsdecode(written), "faces": faces}
                line |= {"pages_left": pages_left} if pages_left else {}
                stream.write(json.dumps(line) + "\n")

    def _open(self) -> closing[sqlite3.Connection]:
        return closing(sqlite3.connect(self.path, timeout=_SECONDS_TO_WAIT))
