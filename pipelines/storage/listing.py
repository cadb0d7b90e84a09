"""A digest of a listing of files, whatever their order and however many they are."""

import hashlib
from collections.abc import Iterable
from typing import Protocol


class Listed(Protocol):
    """A file in a listing; `stamp` changes with its content."""

    @property
    def name(self) -> str:
        """Its name in the listing."""

    @property
    def size(self) -> int:
        """Its size in bytes."""

    @property
    def stamp(self) -> str:
        """Its time of change, or its entity tag."""


class ListingDigest:
    """The digest of files that are added one at a time: the sum of their hashes modulo 2^256."""

    def __init__(self) -> None:
        """Begin with no file."""
        self._sum = 0
        self.count = 0

    def add(self, file: Listed) -> None:
        """Add a file by its name, its size and its stamp."""
        identity = f"{file.name}\0{file.size}\0{file.stamp}".encode(errors="surrogateescape")
        self._sum = (self._sum + int.from_bytes(hashlib.sha256(identity).digest())) % 2**256
        self.count += 1

    def __str__(self) -> str:
        return f"{self.count}-{self._sum:064x}"

    @classmethod
    def of(cls, files: Iterable[Listed]) -> str:
        """Return the digest of all files."""
        digest = cls()
        for file in files:
            digest.add(file)
        return str(digest)
