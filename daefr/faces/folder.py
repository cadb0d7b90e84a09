"""Aligned crops of a folder of photographs, as files: what `daefr align` does."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from daefr.errors import UserError
from daefr.faces.crops import Aligner
from daefr.faces.rejection import Rejection
from daefr.images import encode_png
from daefr.listing import PassedOver, list_images
from daefr.outputs import Folder, FolderRecord, InTheWayError, OnConflict, Results, path_from


@dataclass(frozen=True)
class AlignmentOutcome:
    """What became of one file: the crops that were written, the faces that were rejected, or why not all could be."""

    source: Path
    written: list[Path] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    problem: str = ""
    pages_left: int = 0
    faces: int = 0
    """How many were found."""


def list_photographs(source: Path, target: Path, passed_over: PassedOver | None = None) -> list[Path]:
    """Return a file, or every image below a folder but for crops that lie in it; see `daefr.listing`."""
    return list_images(source, passed_over or PassedOver(), without=target)


def align_files(
    aligner: Aligner, source: Path, target: Path, on_conflict: OnConflict = "stop"
) -> Iterator[AlignmentOutcome]:
    """Write the faces of every photograph of `source` as `target/PLACE/NAME#0.png` and so on, in the folders of old.

    What was written is recorded in a hidden file in `target`, and nothing else is ever replaced, see `daefr.outputs`:
    what has a crop's name and was not made here is the problem of that photograph, or with `on_conflict` as `rename`
    the crop gets a name with a number. A file that cannot be read yields its problem as well. Raises `UserError` when
    `source` has no files, or when `target` cannot be written to.
    """
    photographs = list_photographs(source, target)
    results = Results(
        Folder(target),
        FolderRecord(target),
        foreign="is not recorded as made by this program",
        advice="move it, give another folder for the crops, or --on-conflict rename to keep both",
        exists=lambda name: (target / name).exists(),
        on_conflict=on_conflict,
    )
    for path in photographs:
        name = path.name if source.is_file() else path.relative_to(source).as_posix()
        try:
            found = aligner(path.read_bytes(), name)
        except (OSError, ValueError) as error:
            yield AlignmentOutcome(path, problem=str(error))
            continue
        outcome = AlignmentOutcome(path, rejected=found.rejected, pages_left=found.pages_left, faces=found.faces)
        for crop_name, crop in found.crops.items():
            result = f"{crop_name}.png"
            try:
                made = results.write(encode_png(crop.image), result, path_from(path, target))
            except InTheWayError as error:
                outcome = replace(outcome, problem=str(error))
                break
            except OSError as error:
                raise UserError(f"{target / result} cannot be written: {error.strerror}") from None
            outcome.written.append(target / made)
        yield outcome
