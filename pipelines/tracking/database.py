"""MLflow's SQLite file in a run directory: its address, its making, and what becomes of it when the directory moves.

MLflow records the places of artifacts as absolute addresses. Those below the folder of the database move with it.
"""

import re
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote, unquote

from sqlalchemy import make_url

from daefr.errors import UserError
from daefr.files import publish

FOLDER = "daefr.folder"
"""The tag of an experiment that says where the folder of its database is, or was before it was moved."""
ARTIFACTS = "artifacts"
"""The folder beside the database for the artifacts of experiments without a place of their own."""

_SCHEME = "sqlite:///"
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*:/", re.IGNORECASE)
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)
_TAGGED = "SELECT experiment_id, value FROM experiment_tags WHERE key = ?"
# experiments of earlier versions of this project have no tag
_UNTAGGED = """
SELECT experiment_id, artifact_location FROM experiments
WHERE artifact_location LIKE '%/' || ?
AND experiment_id NOT IN (SELECT experiment_id FROM experiment_tags WHERE key = ?)
"""
_SECONDS_TO_WAIT = 60.0  # for another process that reads or writes


def sqlite_uri(path: Path) -> str:
    """Return the tracking URI of a file, whose name may hold what has a meaning in URIs. Raises `UserError`."""
    try:
        escaped = quote(str(path), safe="")
    except UnicodeEncodeError:
        raise UserError(f"{str(path)!r} is not UTF-8, in which MLflow keeps names: choose another folder") from None
    plain = f"{_SCHEME}{path}"
    # MLflow makes the parent of what it takes for a path; where the slashes are escaped as well, there is none
    return plain if make_url(plain).database == str(path) else _SCHEME + escaped


def sqlite_path(uri: str) -> Path | None:
    """Return the absolute path of the file of a SQLite URI; None of another URI."""
    return Path(str(make_url(uri).database)).resolve() if uri.startswith(_SCHEME) else None


def artifact_address(place: str) -> str:
    """Return the address of a place for artifacts, a folder or an address."""
    return place if _ADDRESS.match(place) else _address_of(Path(place).resolve())


def _address_of(folder: Path) -> str:
    """Return what stands for a folder; MLflow reads `%20` in a plain path as a space."""
    return str(folder) if unquote(str(folder)) == str(folder) else folder.as_uri()


def local_path(address: str) -> Path | None:
    """Return the path of an artifact on this machine; None of one that is elsewhere."""
    if address.startswith("file://"):
        return Path(unquote(address.removeprefix("file://"), errors="surrogateescape"))
    return None if _ADDRESS.match(address) else Path(address)


def open_database(path: Path, make: Callable[[str], object]) -> str:
    """Return the URI of a database, which is created where there is none; `make` makes MLflow's tables at a URI.

    Where its folder was moved or copied since it was written, what it says of places below that folder is put right.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        # it appears whole: where a kill left only some of the tables, no MLflow could go on
        with tempfile.TemporaryDirectory(prefix=".mlflow-", dir=path.parent) as folder:
            whole = Path(folder) / path.name
            make(sqlite_uri(whole))
            with suppress(FileExistsError):  # another process has made it meanwhile
                publish(whole, path)
    # MLflow would try a file that is no database for three minutes before it says so
    with closing(sqlite3.connect(path, timeout=_SECONDS_TO_WAIT, isolation_level=None)) as database:
        database.execute("PRAGMA schema_version")
        if any(_moved(database, path.parent)):
            database.execute("BEGIN IMMEDIATE")  # another process may do the same
            for experiment, before in list(_moved(database, path.parent)):
                _move(database, before, path.parent)
                database.execute("REPLACE INTO experiment_tags (key, value, experiment_id) VALUES (?, ?, ?)",
                                 [FOLDER, str(path.parent), experiment])  # fmt: skip
            database.execute("COMMIT")
    return sqlite_uri(path)


def _moved(database: sqlite3.Connection, folder: Path) -> Iterator[tuple[int, Path]]:
    """Yield the experiments whose database was in another folder before, and that folder."""
    found = [(experiment, Path(value)) for experiment, value in database.execute(_TAGGED, [FOLDER])]
    if (folder / ARTIFACTS).is_dir():
        for experiment, place in database.execute(_UNTAGGED, [ARTIFACTS, FOLDER]):
            before = local_path(place)
            found += [] if before is None else [(experiment, before.parent)]
    for experiment, before in found:
        if before != folder and not (before.exists() and before.samefile(folder)):
            yield experiment, before


def _move(database: sqlite3.Connection, before: Path, after: Path) -> None:
    new = f"{_address_of(after)}/"
    for table, column in _PLACES:
        if not database.execute("SELECT 1 FROM pragma_table_info(?) WHERE name = ?", [table, column]).fetchone():
            continue
        for old in (f"{before}/", f"{before.as_uri()}/"):
            database.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",  # noqa: S608
                [new, len(old) + 1, len(old), old],
            )
