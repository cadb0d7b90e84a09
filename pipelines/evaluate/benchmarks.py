"""Benchmarks: images in folders, in tar files or on S3, or the shards of a dataset."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from daefr.data.dataset import FaceDataset
from daefr.data.manifest import Fetch, load_manifest, read_shards
from daefr.data.order import Position
from daefr.errors import UserError
from daefr.evaluation import NOT_RESTORED, EvaluationSample
from daefr.images import Image
from daefr.listing import PassedOver, name_without_suffix
from daefr.photographs import ImageError, read_opaque
from pipelines.evaluate.settings import BenchmarkConfig, Lq
from pipelines.storage.files import File, list_files, log_passed_over, read_file


class UnreadableError(Exception):
    """An image of a benchmark cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class FileItem:
    """An image of a benchmark of files. `problem` says why it cannot be evaluated, as far as listing shows that."""

    name: str
    lq: File | None = None
    gt: File | None = None
    restored: File | None = None
    problem: str = ""

    def read(self) -> EvaluationSample:
        """Read the images. Raises `UnreadableError`."""
        if self.problem:
            raise UnreadableError(self.problem)
        return EvaluationSample(
            self.name, *(None if file is None else _read(file) for file in (self.lq, self.gt, self.restored))
        )


@dataclass(frozen=True)
class Benchmark:
    """A named list of images; `digest` changes with their content."""

    name: str
    digest: str
    origin: str
    items: Sequence[FileItem | Position]
    has_targets: bool
    shards: "Shards | None" = None
    """The dataset, if the items are positions in it."""
    restored: str = ""
    """A digest of the precomputed results, if the items have them."""


@dataclass(frozen=True)
class Shards:
    """A dataset: the folder of its manifest, and a function that downloads shards stored elsewhere."""

    dataset: Path
    lq: Lq
    fetch: Fetch | None = None

    def open(self) -> FaceDataset:
        """Open the validation samples."""
        return FaceDataset(self.dataset, "validation", ("hq", self.lq), fetch=self.fetch)


def open_shards(name: str, shards: Shards) -> Benchmark:
    """Return the validation samples of a dataset as a benchmark."""
    manifest = load_manifest(shards.dataset)
    items = [
        Position(0, number, sample)
        for number, shard in enumerate(read_shards(shards.dataset, manifest.validation))
        for sample in range(shard.samples)
    ]
    if not items:
        raise UserError(f"dataset {shards.dataset} has no validation samples")
    return Benchmark(name, f"{manifest.digest('validation')} {shards.lq}", str(shards.dataset), items, True, shards)


def read_position(faces: FaceDataset, position: Position) -> EvaluationSample:
    """Read one sample of a dataset."""
    images = faces[position]
    return EvaluationSample(faces.name(position), images["lq"].numpy(), images["hq"].numpy())


def open_benchmark(name: str, config: BenchmarkConfig, restored: str | None = None) -> Benchmark:
    """List a benchmark, sorted by name; `restored` is the location of another method's results on it.

    Files are matched by their path without the suffix. Raises `UserError` if a location is missing or empty, if two of
    its files have the same name, or if no file of one location matches any of another.
    """
    key = f"evaluation.benchmarks.{name}"
    if config.dataset is not None:
        if restored is not None:
            raise UserError(f"{key} is a dataset; --restored requires a benchmark of files (lq, gt)")
        return open_shards(name, Shards(config.dataset, config.kind))
    lq = _by_name(config.lq, f"{key}.lq") if config.lq else {}
    gt = _by_name(config.gt, f"{key}.gt") if config.gt else {}
    results = _by_name(restored, "--restored") if restored else {}
    if lq and gt:
        _check_common(lq, gt, f"{key}.lq", f"{key}.gt")
    if restored and (lq or gt):
        _check_common(results, gt or lq, "--restored", key)
    items = [
        _find_problem(FileItem(each, lq.get(each), gt.get(each), results.get(each)), config, precomputed=bool(restored))
        for each in sorted({*lq, *gt, *results})
    ]
    origin = ", ".join(location for location in (config.lq, config.gt, restored) if location)
    results_digest = _digest(results) if results else ""
    return Benchmark(name, _digest(lq, gt), origin, items, config.gt is not None, restored=results_digest)


def check_locations(benchmarks: Mapping[str, BenchmarkConfig]) -> None:
    """Raise `UserError` if a benchmark's location is missing or empty, without listing all of its files."""
    for name, config in benchmarks.items():
        if config.dataset is not None:
            load_manifest(config.dataset)
        for kind in ("lq", "gt"):
            location = getattr(config, kind)
            if location:
                next(_list(location, f"evaluation.benchmarks.{name}.{kind}"))


def _find_problem(item: FileItem, config: BenchmarkConfig, *, precomputed: bool) -> FileItem:
    """Return an item, or if a file that the evaluation needs is missing, an item with that problem."""
    problem = ""
    if precomputed and item.restored is None:
        problem = NOT_RESTORED
    elif not precomputed and item.lq is None:
        problem = "missing: no LQ image"
    elif item.gt is None and config.gt:
        problem = "no ground truth"
    elif item.lq is None and config.lq and not config.gt:
        problem = "no LQ image"
    return FileItem(item.name, problem=problem) if problem else item


def _check_common(one: Mapping[str, File], other: Mapping[str, File], first: str, second: str) -> None:
    if not one.keys() & other.keys():
        raise UserError(
            f"no file name (without suffix) occurs in both {first} and {second}, which have for example "
            f"{next(iter(one))} and {next(iter(other))}"
        )


def _by_name(location: str, key: str) -> dict[str, File]:
    files: dict[str, File] = {}
    for file in _list(location, key):
        name = name_without_suffix(file.name)
        if name in files:
            raise UserError(f"{key}={location}: {files[name].name} and {file.name} differ only in their suffix")
        files[name] = file
    return files


def _list(location: str, key: str) -> Iterator[File]:
    """List a location that has at least one file."""
    is_empty, passed_over = True, PassedOver()
    try:
        for file in list_files(location, passed_over, every_name=True):
            is_empty = False
            yield file
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{key}={location} does not exist; give a folder, a tar file or s3://bucket/prefix") from None
    except OSError as error:
        raise UserError(f"{key}={location} cannot be listed: {error.strerror}") from None
    summary = passed_over.summary()
    if is_empty:
        problem = f"has no image{summary}" if summary else "is empty"
        raise UserError(f"{key}={location} {problem}; give a folder, a tar file or s3://bucket/prefix of images")
    log_passed_over(passed_over, f"{key}={location}")


def _digest(*locations: Mapping[str, File]) -> str:
    """Return a digest of the names, sizes and stamps of all files."""
    hashed = hashlib.sha256()
    for location in locations:
        for name in sorted(location):
            file = location[name]
            hashed.update(f"{file.name}\0{file.size}\0{file.stamp}\n".encode(errors="surrogateescape"))
        hashed.update(b"\n")
    return hashed.hexdigest()


def _read(file: File) -> Image:
    try:
        return read_opaque(read_file(file.path, file.stamp, file.offset, file.size))
    except OSError as error:
        raise UnreadableError(f"{file.name} cannot be read: {error.strerror}") from None
    except ImageError as error:
        raise UnreadableError(f"{file.name} cannot be used: {error}") from None
