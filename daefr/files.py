"""Files that are whole or as they were."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename: `path` is whole or as it was."""
    with write_aside(path) as temporary:
        temporary.write_text(text)


@contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to; once the block is done, `path` is that file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
