"""Aligned crops of a folder of photographs, as files: what `daefr align` does."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from daefr.errors import UserError
from daefr.faces.crops import Aligner
from daefr.faces.rejection import Rejection
from daefr.images import find_images, write_png


@dataclass(frozen=True)
class AlignmentOutcome:
    """What became of one file: the crops that were written, the faces that were rejected, or why it cannot be read."""

    source: Path
    written: list[Path] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    problem: str = ""


def list_photographs(source: Path) -> list[Path]:
    """Return a file, or every file below a folder; raises `UserError` when there is none."""
    if source.is_file():
        return [source]
    photographs = find_images(source) if source.is_dir() else []
    if not photographs:
        raise UserError(f"{source} is {'empty' if source.is_dir() else 'not there'}; give a folder of photographs")
    return photographs


def align_files(aligner: Aligner, source: Path, target: Path) -> Iterator[AlignmentOutcome]:
    """Write the faces of every photograph of `source` as `target/PLACE/NAME#0.png` and so on, in the folders of old.

    A file that cannot be read yields its problem. Raises `UserError` when `source` has no files, or when `target`
    cannot be written to.
    """
    for path in list_photographs(source):
        name = path.name if source.is_file() else path.relative_to(source).as_posix()
        try:
            found = aligner(path.read_bytes(), name)
        except (OSError, ValueError) as error:
            yield AlignmentOutcome(path, problem=str(error))
            continue
        written = []
        for crop_name, crop in found.crops.items():
            written.append(target / f"{crop_name}.png")
            try:
                write_png(written[-1], crop.image)
            except OSError as error:
                raise UserError(f"{written[-1]} cannot be written: {error.strerror}") from None
        yield AlignmentOutcome(path, written, found.rejected)
