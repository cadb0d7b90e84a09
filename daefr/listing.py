"""What lies in a folder of the user's: images, other files, and links, each counted once.

A link to a folder is followed as if the folder lay there. No folder is listed twice, nor is a file, unless every name
counts: what lies in the tree has its own name there, whatever links lead to it. Circles end where they begin.
"""

import os
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from daefr.errors import UserError
from daefr.settings.images import IMAGE_SUFFIXES

_SIGNATURE = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|RIFF....WEBP|GIF8|....ftyp(avi[fs]|hei[cmsx]|mif1|msf1)|\x00\x00\x00\x0cjP  ", re.DOTALL
)
"""How images begin, whatever they are called; not TIFF, as raw files of cameras do too, nor BMP, as texts could."""
SIGNATURE_BYTES = 16
LISTED, NOWHERE = "leads to what is listed already", "leads nowhere"


class Found(NamedTuple):
    """What was found below a folder: its name there, with slashes, and what it is.

    A "link" is one that is not followed, an "unreadable" folder is not searched; `note` says why.
    """

    name: str
    kind: Literal["image", "other", "link", "unreadable"]
    note: str = ""


@dataclass
class PassedOver:
    """What lies in a place beside images: other files by number, the rest by name and reason.

    `members` are those of tar files that cannot be used.
    """

    other_files: int = 0
    links: list[str] = field(default_factory=list)
    members: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def add(self, found: Found, folder: Path) -> None:
        """Note what is no image."""
        if found.kind == "other":
            self.other_files += 1
        elif found.kind != "image":
            named = self.links if found.kind == "link" else self.unreadable
            named.append(f"{folder / found.name} {found.note}")

    def clear(self) -> None:
        """Forget it all."""
        self.other_files = 0
        for named in (self.links, self.members, self.unreadable):
            named.clear()

    def named(self) -> list[str]:
        """Return a line on each link and folder."""
        return [*self.links, *self.members, *self.unreadable]

    def summary(self) -> str:
        """Return the numbers in words, to follow others after a comma; nothing where there is nothing."""
        counts = {
            "other file": self.other_files,
            "link": len(self.links),
            "member": len(self.members),
            "unreadable folder": len(self.unreadable),
        }
        words = ", ".join(f"{count} {name}{'s' if count > 1 else ''}" for name, count in counts.items() if count)
        return words and f", {words} passed over"


def list_images(
    place: Path, passed_over: PassedOver, *, without: Path | None = None, every_name: bool = False
) -> list[Path]:
    """Return a file, or the images that `walk` finds below a folder; note what else is there as `passed_over`.

    Raises `UserError` for a place that does not exist or has no image.
    """
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise UserError(f"{place} does not exist; give an image or a folder of images")
    images = []
    for found in walk(place, without=without, every_name=every_name):
        if found.kind == "image":
            images.append(place / found.name)
        else:
            passed_over.add(found, place)
    if not images:
        holds = "has no image" if any(place.iterdir()) else "is empty"
        raise UserError(f"{place} {holds}{passed_over.summary()}; give an image or a folder of images")
    return images


def walk(folder: Path, *, without: Path | None = None, every_name: bool = False) -> Iterator[Found]:
    """Yield everything below a folder but folders and what is hidden, that is, whose name begins with a dot.

    The order is that of the names' bytes; what links lead to comes last. Files are images by their suffix, or if that
    is none of an image, by how they begin. Of the folder `without` nothing is listed. With `every_name`, a link is the
    file or folder under another name, listed or not, unless it leads back to where it lies. Raises `OSError` when the
    folder itself is unreadable.
    """
    root = os.path.realpath(folder)
    os.scandir(root).close()
    left_out = None if without is None else os.path.realpath(without)
    yield from _Walk(root, None if left_out == root else left_out, every_name).run()


class _Walk:
    """One walk. Folders and files are known by their real paths."""

    def __init__(self, root: str, without: str | None, every_name: bool) -> None:
        self._root, self._without, self._every_name = root, without, every_name
        self._folders = set[str]()  # that were listed
        self._files = set[str]()  # to which links have led
        self._links = deque[tuple[str, str, tuple[str, ...]]]()  # names, paths, and the folders on the way

    def run(self) -> Iterator[Found]:
        yield from self._list_folder("", self._root)
        # links to folders first, as what lies in these has a name there
        to_files = []
        while self._links:
            name, path, way = self._links.popleft()
            target = os.path.realpath(path)
            if not os.path.isdir(target):  # noqa: PTH112  # pathlib raises where a folder is closed
                to_files.append((name, target))
                continue
            way = (*way, os.path.realpath(Path(path).parent))
            if self._is_left_out(target) or self._is_listed(target, way):
                yield Found(name, "link", LISTED)
            else:
                yield from self._list_folder(f"{name}/", target, (*way, target))
        for name, target in to_files:
            yield self._file_of_link(name, target)

    def _is_listed(self, folder: str, way: tuple[str, ...]) -> bool:
        """Tell whether a folder is not to be listed again: with every name, only one that the way has led through."""
        if self._every_name:
            return any(os.path.commonpath([folder, passed]) == folder for passed in way)
        return folder in self._folders

    def _list_folder(self, prefix: str, folder: str, way: tuple[str, ...] = ()) -> Iterator[Found]:
        """List a folder, but put the links in it aside."""
        waiting: list[tuple[str, str | os.DirEntry[str]]] = [(prefix, folder)]
        while waiting:
            name, place = waiting.pop()
            if not isinstance(place, str):
                is_file = place.is_file(follow_symlinks=False)
                yield Found(name, _kind_of(name, place.path) if is_file else "other")
            elif (self._every_name or place not in self._folders) and not self._is_left_out(place):
                self._folders.add(place)
                try:
                    waiting += reversed(self._entries(name, place, way))
                except OSError as error:
                    yield Found(name.rstrip("/"), "unreadable", f"cannot be listed: {error.strerror}")

    def _entries(self, prefix: str, folder: str, way: tuple[str, ...]) -> list[tuple[str, str | os.DirEntry[str]]]:
        with os.scandir(folder) as found:
            entries = [(_name_of(entry), entry) for entry in found if not entry.name.startswith(".")]
        listed: list[tuple[str, str | os.DirEntry[str]]] = []
        for name, entry in sorted(entries, key=lambda pair: os.fsencode(pair[0])):
            if entry.is_symlink():
                self._links.append((prefix + name, entry.path, way))
            else:
                listed.append((prefix + name, entry.path if name.endswith("/") else entry))
        return listed

    def _file_of_link(self, name: str, target: str) -> Found:
        folder, file = os.path.split(target)
        if not os.path.exists(target):  # noqa: PTH110  # likewise
            return Found(name, "link", NOWHERE)
        is_listed = target in self._files or (folder in self._folders and not file.startswith("."))
        if (is_listed and not self._every_name) or self._is_left_out(target):
            return Found(name, "link", LISTED)
        self._files.add(target)
        is_file = os.path.isfile(target)  # noqa: PTH113  # likewise
        return Found(name, _kind_of(name, target) if is_file else "other")

    def _is_left_out(self, path: str) -> bool:
        if self._without is None:
            return False
        below = self._without + os.sep
        return path == self._without or (path.startswith(below) and not self._root.startswith(below))


def name_without_suffix(name: str) -> str:
    """Return a name without its suffixes of images: `a/0001` of `a/0001.jpg.png`, which was made of `a/0001.jpg`."""
    while name.lower().endswith(IMAGE_SUFFIXES):
        name = name.rpartition(".")[0]
    return name


def _name_of(entry: os.DirEntry[str]) -> str:
    return entry.name + "/" * entry.is_dir(follow_symlinks=False)


def is_image(name: str, start: bytes = b"") -> bool:
    """Tell whether a file is taken for an image, by its name and by its first `SIGNATURE_BYTES`."""
    return name.lower().endswith(IMAGE_SUFFIXES) or _SIGNATURE.match(start) is not None


def _kind_of(name: str, path: str) -> Literal["image", "other"]:
    if is_image(name) or is_image(path):  # a link's, or its target's
        return "image"
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # for millions of names
            return "image" if is_image(name, file.read(SIGNATURE_BYTES)) else "other"
    except OSError:
        return "other"
