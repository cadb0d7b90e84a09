"""The images in a tar file: where their bytes are. Nothing is unpacked, so a name is a name only, whatever it says.

Links are followed within the tar file as they are in a folder: see `daefr.listing.walk`. Of members with one name the
last counts, as it would be what is left after unpacking.
"""

import tarfile
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from posixpath import dirname, join, normpath
from typing import IO, NamedTuple

from daefr.errors import UserError
from daefr.listing import LISTED, NOWHERE, SIGNATURE_BYTES, PassedOver, is_image

_HEADER = 512
_MOST_LINKS = 40
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"7z\xbc\xaf", b"Rar!")
_ARCHIVES = (".tgz", ".tbz", ".tbz2", ".txz", ".tzst", ".zip", ".7z", ".rar")
_COMPRESSED_TARS = (".gz", ".bz2", ".xz", ".zst", ".lz", ".lzma", ".z")


class Member(NamedTuple):
    """A file in a tar file, whose bytes start at `offset`, or a symbolic link with its target's path there.

    `start` are its first bytes, None of what is no file.
    """

    offset: int
    size: int
    start: bytes | None = None
    target: str | None = None


@dataclass
class Contents:
    """What is in a tar file, by normalized name in the order of the headers, and why some of it cannot be used."""

    members: dict[str, Member] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    unusable: list[str] = field(default_factory=list)

    def images(self, passed_over: PassedOver, place: str, *, every_name: bool) -> Iterator[tuple[str, Member]]:
        """Yield the images with their names; note the rest. With `every_name`, what symbolic links lead to as well."""
        passed_over.members += [f"{place}/{each}" for each in self.unusable]
        for name, member in self.members.items():
            if member.target is not None and not every_name and self._resolve(name) is not None:
                passed_over.links.append(f"{place}/{name} {LISTED}")
            else:
                yield from self._follow(name, name, (), passed_over, place)

    def _follow(
        self, name: str, path: str, chain: tuple[str, ...], passed_over: PassedOver, place: str
    ) -> Iterator[tuple[str, Member]]:
        """Yield what is at a path, under that name; `chain` has the folders that the links to it lie in and lead to."""
        target = self._resolve(path)
        found = None if target is None else self.members.get(target)
        if found is not None:
            if found.start is not None and (is_image(name, found.start) or is_image(target or name)):
                yield name, found
            else:
                passed_over.other_files += 1
            return
        below = [] if target is None else self._below(target)
        if target is None or not (below or target in self.folders):
            passed_over.links.append(f"{place}/{name} {NOWHERE}")
            return
        chain = (*chain, self._resolve(dirname(path)) or "")
        if any(f"{folder}/".startswith(target and f"{target}/") for folder in chain):  # a circle
            passed_over.links.append(f"{place}/{name} {LISTED}")
            return
        for each in below:
            inner = each.removeprefix(target).lstrip("/")
            yield from self._follow(f"{name}/{inner}", each, (*chain, target), passed_over, place)

    def _resolve(self, path: str) -> str | None:
        """Return the path that links lead to from a path; None for a circle of links, or out of the tar file."""
        for _ in range(_MOST_LINKS):
            parts = path.split("/")
            for count in range(1, len(parts) + 1):
                member = self.members.get("/".join(parts[:count]))
                if member is not None and member.target is not None:
                    path = _normalized(join(member.target, *parts[count:]))
                    break
            else:
                return None if path.startswith("/") else path
        return None

    def _below(self, folder: str) -> list[str]:
        start, end = (f"{folder}/", f"{folder}0") if folder else ("", "\U0010ffff")  # a zero comes after a slash
        return self._sorted[bisect_left(self._sorted, start) : bisect_left(self._sorted, end)]

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(self.members)


def refuse_compressed(name: str, where: str) -> None:
    """Raise `UserError` for the name of a compressed archive: its members cannot be read one by one."""
    if _is_archive(name.lower()):
        raise _compressed(where)


def read_contents(open_tar: Callable[[], IO[bytes]], where: str) -> Contents:
    """Read the headers of a tar file, and the first bytes of each member.

    Raises `UserError` for one that is compressed or damaged, as nothing tells how much of it is lost.
    """
    contents = Contents()
    with closing(open_tar()) as stream:
        if stream.read(6).startswith(_COMPRESSED):
            raise _compressed(where)
        stream.seek(0)
        try:
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                for member in tar:
                    _add(contents, member, stream)
                    tar.members = []  # type: ignore[attr-defined]  # it would keep them all
                stream.seek(tar.offset)
        except tarfile.TarError as error:
            raise UserError(f"{where} is damaged: {error}") from None
        end = stream.read(_HEADER)
        # tarfile takes an unreadable header, or none, for the end
        if len(end) < _HEADER or any(end):
            raise UserError(f"{where} is damaged: it breaks off or has no readable header at byte {tar.offset}")
    return contents


def shown(name: str) -> str:
    """Return the name of a member as one that leads nowhere else where it becomes a path."""
    return "/".join("(..)" if part == ".." else part for part in name.split("/"))


def is_hidden(name: str) -> bool:
    """Tell whether a name, or the name of a folder in it, begins with a dot."""
    return any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))


def _add(contents: Contents, member: tarfile.TarInfo, stream: IO[bytes]) -> None:
    name, members = _normalized(member.name.lstrip("/")), contents.members
    if is_hidden(name):
        return
    if member.isdir():
        contents.folders.add(name)
        return
    found = _read(name, member, members, stream)
    if isinstance(found, str):
        contents.unusable.append(f"{name} {found}")
    elif found is not members.get(name):  # where a file was packed twice, it is a link to itself
        if name in members:
            contents.unusable.append(f"{name} is replaced by a later member of this name")
        members[name] = found


def _read(name: str, member: tarfile.TarInfo, before: Mapping[str, Member], stream: IO[bytes]) -> Member | str:
    """Return what a member is, or why it cannot be used."""
    if member.islnk():
        return before.get(_normalized(member.linkname.lstrip("/")), NOWHERE)
    if member.issym():
        return Member(0, 0, target=_normalized(join(dirname(name), member.linkname)))
    if member.issparse():
        return "is a sparse file: pack it as a plain one"
    if member.isreg() and _is_archive(name.lower(), plain=True):
        return "is an archive in an archive: unpack it"
    if not member.isreg():
        return Member(0, 0)
    stream.seek(member.offset_data)
    return Member(member.offset_data, member.size, stream.read(min(SIGNATURE_BYTES, member.size)))


def _normalized(path: str) -> str:
    return "" if normpath(path) == "." else normpath(path)


def _is_archive(name: str, *, plain: bool = False) -> bool:
    stem, _, suffix = name.rpartition(".")
    is_compressed = name.endswith(_ARCHIVES) or (stem.endswith(".tar") and f".{suffix}" in _COMPRESSED_TARS)
    return is_compressed or (plain and name.endswith(".tar"))


def _compressed(where: str) -> UserError:
    return UserError(f"{where} is compressed: unpack it, or make a plain .tar file of it, in which images can be found")
