"""Names of results: each depends on its source's name alone, and no two sources have the same.

A result has its source's whole name where the source is of the result's type; otherwise the type's suffix follows it,
as in `photo.jpg.png`. So it does where another source would get that name: `photo.jpg.png` becomes `photo.jpg.png.png`.
"""

from daefr.settings.images import IMAGE_SUFFIXES
from daefr.settings.restore import Format, ImageType

SUFFIXES: dict[ImageType, tuple[str, ...]] = {
    "jpg": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "png": (".png",),
    "webp": (".webp",),
    "tiff": (".tif", ".tiff"),
}
"""Of the types that are written; `tiff` is written as `.tif`."""
_NO_SUFFIX = ".image"


def type_of_name(name: str) -> ImageType | None:
    """Return the type that a name's suffix says; None where it is none that is written."""
    return next((kind for kind, suffixes in SUFFIXES.items() if name.lower().endswith(suffixes)), None)


def result_type(name: str, wanted: Format) -> ImageType:
    """Return the type of a source's result."""
    return (type_of_name(name) or "png") if wanted == "same" else wanted


def result_name(name: str, wanted: Format, suffix: str = "") -> str:
    """Return the name of a source's result, with `suffix` before that of its type."""
    if _keeps_name(name, wanted):
        stem, _, last = name.rpartition(".")
        return f"{stem}{suffix}.{last}"
    # else photo and photo.png would have the same
    whole = name if name.lower().endswith(IMAGE_SUFFIXES) else f"{name}{_NO_SUFFIX}"
    return f"{whole}{suffix}{SUFFIXES[result_type(name, wanted)][0]}"


def _keeps_name(name: str, wanted: Format) -> bool:
    if not name.lower().endswith(SUFFIXES[result_type(name, wanted)]):
        return False
    stem = name.rpartition(".")[0]
    is_another = stem.lower().endswith(_NO_SUFFIX) or (
        stem.lower().endswith(IMAGE_SUFFIXES) and not _keeps_name(stem, wanted)
    )
    return not is_another
