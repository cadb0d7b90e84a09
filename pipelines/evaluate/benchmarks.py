"""What a model is evaluated on: named benchmarks in folders, tar files or on S3, and the shards of a dataset."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from daefr.data.dataset import FaceDataset
from daefr.data.manifest import Fetch, load_manifest, read_shards
from daefr.data.order import Position
from daefr.errors import UserError
from daefr.evaluation import EvaluationSample
from daefr.images import Image
from daefr.listing import PassedOver, name_without_suffix
from daefr.photographs import ImageError, read_opaque
from pipelines.evaluate.settings import BenchmarkConfig, Lq
from pipelines.storage.files import File, list_files, log_passed_over, read_file


class UnreadableError(Exception):
    """An image of a benchmark that cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class FileItem:
    """An image of a benchmark of files. `problem` is why it cannot be evaluated, found out by listing alone."""

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
    """Where the images are when the items are positions."""
    restored: str = ""
    """A digest of what was restored elsewhere, where the items have it."""


@dataclass(frozen=True)
class Shards:
    """Where the samples of a dataset are: the folder of its manifest, and what brings shards that are elsewhere."""

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
    """List a benchmark, sorted by name; `restored` is a place with what another method made of its images.

    Files belong together by their path without the suffix. Raises `UserError` for places that are missing or empty,
    for two files of one name, and where no name is in two places that should go together.
    """
    key = f"evaluation.benchmarks.{name}"
    if config.dataset is not None:
        if restored is not None:
            raise UserError(f"{key} is a dataset: a folder of restored images is measured on files (lq, gt)")
        return open_shards(name, Shards(config.dataset, config.kind))
    lq = _by_name(config.lq, f"{key}.lq") if config.lq else {}
    gt = _by_name(config.gt, f"{key}.gt") if config.gt else {}
    made = _by_name(restored, "--restored") if restored else {}
    if lq and gt:
        _check_common(lq, gt, f"{key}.lq", f"{key}.gt")
    if restored and (lq or gt):
        _check_common(made, gt or lq, "--restored", key)
    names = sorted({*lq, *gt, *made})
    find = _restored_item if restored else _input_item
    items = [find(each, lq.get(each), gt.get(each), made.get(each), config) for each in names]
    places = [place for place in (config.lq, config.gt, restored) if place]
    digest = _digest(lq, gt)
    return Benchmark(
        name, digest, ", ".join(places), items, config.gt is not None, restored=_digest(made) if made else ""
    )


def check_places(benchmarks: Mapping[str, BenchmarkConfig]) -> None:
    """Raise `UserError` for a benchmark whose places are missing or empty, without listing all of them."""
    for name, config in benchmarks.items():
        if config.dataset is not None:
            load_manifest(config.dataset)
        for kind in ("lq", "gt"):
            place = getattr(config, kind)
            if place:
                next(_list(place, f"evaluation.benchmarks.{name}.{kind}"))


def _input_item(name: str, lq: File | None, gt: File | None, _: File | None, config: BenchmarkConfig) -> FileItem:
    if lq is None:
        return FileItem(name, problem="missing: there is ground truth, but no LQ image")
    if gt is None and config.gt:
        return FileItem(name, problem="there is an LQ image, but no ground truth")
    return FileItem(name, lq, gt)


def _restored_item(
    name: str, lq: File | None, gt: File | None, restored: File | None, config: BenchmarkConfig
) -> FileItem:
    if restored is None:
        return FileItem(name, problem="missing: nothing was restored for it")
    if gt is None and config.gt:
        return FileItem(name, problem="there is a restored image, but no ground truth")
    if lq is None and config.lq and not config.gt:
        return FileItem(name, problem="there is a restored image, but no LQ image")
    return FileItem(name, lq, gt, restored)


def _check_common(one: Mapping[str, File], other: Mapping[str, File], first: str, second: str) -> None:
    if not one.keys() & other.keys():
        raise UserError(
            f"no image of {first} has the name of one of {second} (but for the suffix): "
            f"there is {next(iter(one))} here and {next(iter(other))} there"
        )


def _by_name(place: str, key: str) -> dict[str, File]:
    files: dict[str, File] = {}
    for file in _list(place, key):
        name = name_without_suffix(file.name)
        if name in files:
            raise UserError(f"{key}={place}: {files[name].name} and {file.name} have one name but for the suffix")
        files[name] = file
    return files


def _list(place: str, key: str) -> Iterator[File]:
    """List a place, which has at least one file."""
    count, passed_over = 0, PassedOver()
    try:
        for count, file in enumerate(list_files(place, passed_over, every_name=True), 1):  # noqa: B007  # told later
            yield file
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{key}={place} does not exist; give a folder, a tar file or s3://bucket/prefix") from None
    except OSError as error:
        raise UserError(f"{key}={place} cannot be listed: {error.strerror}") from None
    told = passed_over.summary()
    if not count:
        holds = f"has no image{told}" if told else "is empty"
        raise UserError(f"{key}={place} {holds}; give a folder, a tar file or s3://bucket/prefix of images")
    log_passed_over(passed_over, f"{key}={place}")


def _digest(*places: Mapping[str, File]) -> str:
    """Return a digest of the names, sizes and stamps of all files."""
    hashed = hashlib.sha256()
    for place in places:
        for name in sorted(place):
            file = place[name]
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
