"""Files of somebody else, under every name that a program could want, and proof that they are as they were."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

SUFFIXES = (".png", ".PNG", ".jpg", ".JPG", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".tar", ".json", ".npz")


def names_like(sources: Iterable[str], suffix: str = "") -> list[str]:
    """Names that results, copies, crops and temporary files of sources could have, and what lies beside them."""
    names = [".restore.json", "manifest.jsonl", ".manifest.jsonl.tmp", "restored-00000001.tar"]
    for source in sources:
        folder, slash, file = source.rpartition("/")
        place, stem = f"{folder}{slash}", file.rpartition(".")[0]
        for form in {stem, file, f"{stem}{suffix}", f"{file}{suffix}"}:
            names += [f"{place}{form}{ending}" for ending in SUFFIXES]
            names += [f"{place}{form}-{number}.png" for number in (2, 3)]
            names += [f"{place}.{form}.png.tmp", f"{place}{form}.png.tmp", f"{place}{form}#1.png"]
            hashed = hashlib.sha256(os.fsencode(f"{form}.png")).hexdigest()[:16]
            names += [f"{place}.{hashed}.tmp", f"{place}.{hashed}.{0:016x}.tmp"]
    return sorted(set(names))


def fill(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Write a file of its own content under every name; return what `seen` gives of the folder."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"somebody's {name}")
    return seen(folder)


def seen(folder: Path) -> dict[str, str]:
    """Return what is below a folder: digests of files, targets of links."""
    return {
        str(path.relative_to(folder)): f"link to {path.readlink()}"
        if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def lost(before: dict[str, str], folder: Path) -> list[str]:
    """Return the names of what is not as it was."""
    now = seen(folder)
    return [name for name, content in before.items() if now.get(name) != content]
