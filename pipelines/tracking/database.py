"""MLflow's SQLite file in a run directory: its URI, its creation, and its update when the directory is moved.

MLflow stores the locations of artifacts as absolute URIs. Those below the folder of the database move with it.
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
"""The tag of an experiment with the folder of its database, before it was moved."""
ARTIFACTS = "artifacts"
"""The default folder for artifacts, beside the database."""

_SCHEME = "sqlite:///"
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*:/", re.IGNORECASE)
_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)
_TAGGED = "SELECT experiment_id, value FROM experiment_tags WHERE key = ?"
# experiments of older releases have no tag
_UNTAGGED = """
SELECT experiment_id, artifact_location FROM experiments
WHERE artifact_location LIKE '%/' || ?
AND experiment_id NOT IN (SELECT experiment_id FROM experiment_tags WHERE key = ?)
"""
_LOCK_TIMEOUT_SECONDS = 60.0


def sqlite_uri(path: Path) -> str:
    """Return the tracking URI of a file, with special characters escaped. Raises `UserError`."""
    try:
        escaped = quote(str(path), safe="")
    except UnicodeEncodeError:
        raise UserError(f"{str(path)!r} is not UTF-8, which MLflow requires; choose another folder") from None
    plain = f"{_SCHEME}{path}"
    # with escaped slashes, MLflow finds no parent folder, which it would create under a wrong name
    return plain if make_url(plain).database == str(path) else _SCHEME + escaped


def sqlite_path(uri: str) -> Path | None:
    """Return the absolute path of a SQLite URI's file; None for other URIs."""
    return Path(str(make_url(uri).database)).resolve() if uri.startswith(_SCHEME) else None


def artifact_address(location: str) -> str:
    """Return the address of a location for artifacts, a folder or an address."""
    return location if _ADDRESS.match(location) else _address_of(Path(location).resolve())


def _address_of(folder: Path) -> str:
    """Return the address of a folder; MLflow reads `%20` in a plain path as a space."""
    return str(folder) if unquote(str(folder)) == str(folder) else folder.as_uri()


def local_path(address: str) -> Path | None:
    """Return the path of a local artifact; None for any other."""
    if address.startswith("file://"):
        return Path(unquote(address.removeprefix("file://"), errors="surrogateescape"))
    return None if _ADDRESS.match(address) else Path(address)


def open_database(path: Path, make: Callable[[str], object]) -> str:
    """Return the URI of a database, which is created if necessary; `make` creates MLflow's tables at a URI.

    If the folder was moved or copied, the locations below it are updated in the database.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        # created atomically, because MLflow cannot use a database with only some of its tables
        with tempfile.TemporaryDirectory(prefix=".mlflow-", dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            make(sqlite_uri(temporary))
            with suppress(FileExistsError):  # another process was faster
                publish(temporary, path)
    # for a file that is not a database, MLflow would retry for three minutes
    with closing(sqlite3.connect(path, timeout=_LOCK_TIMEOUT_SECONDS, isolation_level=None)) as database:
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
    """Yield the experiments whose database was in another folder, and that folder."""
    found = [(experiment, Path(value)) for experiment, value in database.execute(_TAGGED, [FOLDER])]
    if (folder / ARTIFACTS).is_dir():
        for experiment, location in database.execute(_UNTAGGED, [ARTIFACTS, FOLDER]):
            before = local_path(location)
            found += [] if before is None else [(experiment, before.parent)]
    for experiment, before in found:
        if before != folder and not (before.exists() and before.samefile(folder)):
            yield experiment, before


def _move(database: sqlite3.Connection, before: Path, after: Path) -> None:
    new = f"{_address_of(after)}/"
    for table, column in _LOCATIONS:
        if not database.execute("SELECT 1 FROM pragma_table_info(?) WHERE name = ?", [table, column]).fetchone():
            continue
        for old in (f"{before}/", f"{before.as_uri()}/"):
            database.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",  # noqa: S608
                [new, len(old) + 1, len(old), old],
            )
