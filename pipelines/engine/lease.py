"""A lease on a folder of a shared file system, which ensures that only one process at a time works in it.

Each holder creates a file with the next number, which only one process can do, and rewrites it every few seconds. If
the file does not change for the duration of the lease, the holder has died. Clocks of machines are not compared.
"""

import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import psutil

from daefr.errors import UserError
from daefr.files import write_atomically, write_bytes
from pipelines.engine.progress import say
from pipelines.errors import StepFailedError

LEASE_SECONDS = 60.0
_RENEWALS = 6
"""Number of renewals per duration of the lease."""
_NAME = re.compile(r"\.lease-(\d{6})")


@dataclass(frozen=True)
class Holder:
    """The content of a lease file: a process, and how often it has renewed its lease."""

    host: str
    namespace: str
    """Identifies the machine or container in which `pid` is valid."""
    pid: int
    renewals: int = 0
    released: bool = False

    @classmethod
    def here(cls) -> "Holder":
        """Return this process."""
        return cls(socket.gethostname(), _namespace(), os.getpid())

    @property
    def has_ended(self) -> bool:
        """Whether the lease was released, or its process is known to have died."""
        return self.released or (self.namespace == _namespace() and not psutil.pid_exists(self.pid))

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Lease:
    """A lease that this process holds."""

    def __init__(self, path: Path, holder: Holder, seconds: float) -> None:
        """Start a thread that renews the lease."""
        self._path, self._holder, self._interval = path, holder, seconds / _RENEWALS
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise `StepFailedError` if another process has taken the lease, for example after this one was suspended."""
        newest = _newest(self._path.parent)
        if newest != self._path:
            holder = None if newest is None else _read(newest)
            raise StepFailedError(f"{holder or 'another process'} has taken over {self._path.parent}")

    def release(self) -> None:
        """Release the folder."""
        self._stop.set()
        self._thread.join()
        if _newest(self._path.parent) == self._path:
            with suppress(OSError):  # the lease expires anyway
                _write(self._path, replace(self._holder, released=True))

    def _renew(self) -> None:
        while not self._stop.wait(self._interval):
            if _newest(self._path.parent) != self._path:
                os.kill(os.getpid(), signal.SIGTERM)  # another process works in the folder
                return
            self._holder = replace(self._holder, renewals=self._holder.renewals + 1)
            with suppress(OSError):  # such as a full disk
                _write(self._path, self._holder)


@contextmanager
def leased(folder: Path, name: str, *, wait: bool = True, seconds: float = LEASE_SECONDS) -> Iterator[Lease]:
    """Hold the lease on a folder while the block runs, after waiting for its current holder.

    If the holder has died, the wait takes at most `seconds`. Without `wait`, raises `UserError` instead of waiting.
    """
    lease = _acquire(folder, name, wait, seconds)
    try:
        yield lease
    finally:
        lease.release()


def _acquire(folder: Path, name: str, wait: bool, seconds: float) -> Lease:
    seen: tuple[Path | None, Holder | None] = (None, None)
    since, reported = time.monotonic(), None
    while True:
        newest = _newest(folder)
        holder = None if newest is None else _read(newest)
        if (newest, holder) != seen:
            seen, since = (newest, holder), time.monotonic()
        is_free = newest is None or (holder is not None and holder.has_ended)
        if is_free or time.monotonic() - since > seconds:
            lease = _take(folder, newest, seconds)
            if lease is not None:
                return lease
            continue
        if not wait and holder is not None:
            raise UserError(f"{name}: {holder} uses {folder}; wait for it, or set compute.wait_for_lease=true")
        if holder is not None and reported != (holder.host, holder.pid):
            say(f"{name}: waiting for {holder}, which uses {folder}")
            reported = (holder.host, holder.pid)
        time.sleep(min(1.0, seconds / _RENEWALS))


def _take(folder: Path, newest: Path | None, seconds: float) -> Lease | None:
    """Create the file after the newest one; return None if another process was faster."""
    number = 0 if newest is None else _number(newest)
    path, holder = folder / f".lease-{number + 1:06d}", Holder.here()
    try:
        write_bytes(path, _encode(holder))
    except FileExistsError:
        return None
    if _newest(folder) != path:  # this process had read the folder before files were removed from it
        path.unlink()
        return None
    for old in folder.glob(".lease-*"):
        if _NAME.fullmatch(old.name) and _number(old) < _number(path):
            old.unlink(missing_ok=True)
    return Lease(path, holder, seconds)


def _newest(folder: Path) -> Path | None:
    leases = [path for path in folder.glob(".lease-*") if _NAME.fullmatch(path.name)]
    return max(leases, key=_number, default=None)


def _number(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _read(path: Path) -> Holder | None:
    """Return the content of a lease file, None if it is missing or damaged."""
    try:
        return Holder(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _encode(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _write(path: Path, holder: Holder) -> None:
    write_atomically(path, _encode(holder))


@cache
def _namespace() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        return f"{boot.strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return socket.gethostname()
