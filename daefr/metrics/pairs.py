"""Which restored image belongs to which ground truth, and reading them ahead of the measuring."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from daefr.errors import UserError
from daefr.listing import PassedOver, list_images, name_without_suffix
from daefr.photographs import ImageError, read_opaque

READERS = 4
AHEAD = 2 * READERS


@dataclass(frozen=True)
class Pair:
    """The files of a restored image and of its ground truth, if there is any; `name` is the path without its suffix."""

    name: str
    restored: Path
    target: Path | None = None


@dataclass(frozen=True)
class Images:
    """The images of a pair, (3, H, W) uint8 RGB and of one size; without ground truth, `target` is None."""

    name: str
    restored: Tensor
    target: Tensor | None


@dataclass(frozen=True)
class Unusable:
    """An image that cannot be measured, or is `missing`: there is ground truth, but nothing restored."""

    name: str
    problem: str
    missing: bool = False


def find_pairs(
    restored: Path, target: Path | None, passed_over: PassedOver | None = None, suffix: str = ""
) -> list[Pair | Unusable]:
    """Find the images below a folder, sorted by name, each with the ground truth of the same name below another.

    Names are paths without the suffixes of images: `a/1.png` belongs to `a/1.jpg`, and so does `a/1.jpg.png`. With a
    `suffix`, such as `_00`, `a/1_00.png` belongs to them, and what lacks it is unusable. Two files are a pair whatever
    their names. What else lies in the folders is noted as `passed_over`.

    Raises `UserError` for a path that does not exist, an empty folder, a file and a folder, two images of one name in
    a folder, and folders that have no name in common.
    """
    if target is not None and restored.is_file() and target.is_file():
        return [Pair(restored.stem, restored, target)]
    passed_over = passed_over or PassedOver()
    images = _by_name(restored, passed_over)
    if target is None:
        return [Pair(name, path) for name, path in images.items()]
    if restored.is_file() or target.is_file():
        raise UserError(f"{restored} and {target}: give two folders, or two images")
    targets = _by_name(target, passed_over)
    named = {name.removesuffix(suffix): path for name, path in images.items() if name.endswith(suffix)}
    if not named.keys() & targets.keys():
        without = f"(but for {suffix} and the format)" if suffix else "(but for the format)"
        raise UserError(
            f"no image in {restored} has the name of one in {target} {without}: "
            f"there is {next(iter(images))} here and {next(iter(targets))} there"
        )
    pairs = [_pair(name, named.get(name), targets.get(name)) for name in sorted(named.keys() | targets.keys())]
    lacking = [name for name in images if not name.endswith(suffix)]
    return pairs + [Unusable(name, f"{images[name]} does not have the suffix {suffix}") for name in lacking]


def read_ahead(pairs: Iterable[Pair | Unusable]) -> Iterator[Images | Unusable]:
    """Read pairs in order; few of them are in memory at any time. What is unusable already passes through."""
    waiting: deque[Future[Images | Unusable]] = deque()
    with ThreadPoolExecutor(READERS) as pool:
        for pair in pairs:
            waiting.append(pool.submit(_read, pair))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def batches(images: Iterable[Images | Unusable], size: int) -> Iterator[list[Images] | Unusable]:
    """Put up to `size` images that follow each other and are of one size together; what is unusable passes through."""
    batch: list[Images] = []
    for each in images:
        if isinstance(each, Unusable):
            yield each
            continue
        if batch and (len(batch) == size or each.restored.shape != batch[0].restored.shape):
            yield batch
            batch = []
        batch.append(each)
    if batch:
        yield batch


def _by_name(place: Path, passed_over: PassedOver) -> dict[str, Path]:
    images: dict[str, Path] = {}
    for path in list_images(place, passed_over, every_name=True):
        name = name_without_suffix(path.name if path == place else path.relative_to(place).as_posix())
        if name in images:
            raise UserError(f"{images[name]} and {path} have one name but for the suffix; rename or remove one")
        images[name] = path
    return dict(sorted(images.items()))


def _pair(name: str, restored: Path | None, target: Path | None) -> Pair | Unusable:
    if restored is None:
        return Unusable(name, f"missing: there is nothing restored for {target}", missing=True)
    if target is None:
        return Unusable(name, f"{restored} has no ground truth")
    return Pair(name, restored, target)


def _read(pair: Pair | Unusable) -> Images | Unusable:
    if isinstance(pair, Unusable):
        return pair
    try:
        restored = _decode(pair.restored)
        target = None if pair.target is None else _decode(pair.target)
    except ValueError as error:
        return Unusable(pair.name, str(error))
    if target is not None and restored.shape != target.shape:
        sizes = [f"{width}x{height}" for _, height, width in (restored.shape, target.shape)]
        return Unusable(pair.name, f"{pair.restored} has {sizes[0]} pixels, its ground truth {sizes[1]}")
    return Images(pair.name, restored, target)


def _decode(path: Path) -> Tensor:
    try:
        image = read_opaque(path)
    except ImageError as error:
        raise ValueError(f"{path} cannot be used: {error}") from None
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
