"""Files that are whole or as they were."""

from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename: `path` is whole or as it was."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)
