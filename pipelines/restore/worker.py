"""What a worker of the restoration job does: restore the images of a group, and write what becomes of them."""

import json
import pickle
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch

from daefr.data.shards import Sample, write_shard
from daefr.device import worker_device
from daefr.errors import UserError, one_line
from daefr.outputs import InTheWayError, Record, Results
from daefr.restore import ImageError, Photograph, Restoration, Restorer, read_photograph
from daefr.restore.files import OF_ONE_NAME, encode_result, in_groups, kind_of
from daefr.restore.names import result_name
from pipelines.errors import StepFailedError
from pipelines.restore.ledger import Input, Outcome, Status
from pipelines.restore.settings import RestoreCompute, RestoreConfig
from pipelines.storage import s3
from pipelines.storage.files import read_file
from pipelines.storage.results import Journal, folder_of, open_results, source_of


class Read(NamedTuple):
    """An input that was read: its file, and the photograph in it."""

    given: Input
    data: bytes
    photograph: Photograph | ImageError


class Result(NamedTuple):
    """What an input became: the name of its result and the content, or why there is none."""

    given: Input
    outcome: Outcome
    content: bytes = b""


@dataclass(frozen=True)
class RestoreJob:
    """What a worker needs to know: where results come from and go, where they are recorded, the model, and how."""

    source: str
    target: str
    workdir: Path
    model: Path
    settings: RestoreConfig
    compute: RestoreCompute

    def results(self, record: Record) -> Results:
        """Return the results in the target, as they are recorded."""
        advice = "move it, give another OUT, or restore.on_conflict=rename to keep both"
        return open_results(self.target, record, self.workdir, advice, self.settings.on_conflict)


def shard_name(group: Sequence[Input]) -> str:
    """Return the name of the shard of a group's results."""
    return f"restored-{group[0].number:08d}.tar"


def results_of(settings: RestoreConfig) -> Callable[[str], str]:
    """Return what gives an input's result its name, which is the command's."""
    # an object's key may begin with a slash
    return lambda name: result_name(name.lstrip("/"), settings.format, settings.suffix)


class Restoring:
    """A worker, with the model loaded once."""

    def __init__(self, job: RestoreJob) -> None:
        """Hold the job; the model is loaded for the first group, so that what is wrong with it can be told."""
        self._job = job

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Restore a group: a pickled list of `Input` to one of `Outcome`, or to the exception that ends the job."""
        group: list[Input] = pickle.loads(row["group"])  # noqa: S301  # our own driver wrote it
        self._journal.learn(pickle.loads(row["known"]))  # noqa: S301  # likewise
        told: list[Outcome] | Exception
        try:
            make = self._make_shard if self._job.settings.samples_per_shard else self._make_files
            told = make(group)
        except (UserError, StepFailedError) as error:
            told = error
        return {"outcomes": pickle.dumps(told)}

    @cached_property
    def _journal(self) -> Journal:
        return Journal(folder_of(self._job.workdir, self._job.target))

    @cached_property
    def _results(self) -> Results:
        return self._job.results(self._journal)

    @cached_property
    def _restorer(self) -> Restorer:
        compute, settings = self._job.compute, self._job.settings
        torch.set_num_threads(max(1, int(compute.cpus_per_worker)))
        restorer = Restorer.load(
            self._job.model,
            worker_device(compute.use_gpu),
            settings.detector,
            settings.parser,
            settings.upscaler,
            batch=compute.batch_size,
            max_pixels=settings.max_pixels,
            min_face=settings.min_face,
        )
        if not settings.aligned:
            restorer.load_detector()
        return restorer

    def _make_files(self, group: list[Input]) -> list[Outcome]:
        return [self._write(result) for result in self._restore(group)]

    def _write(self, result: Result) -> Outcome:
        given, outcome, target = result.given, result.outcome, self._job.target
        if outcome.status == "failed":
            return outcome
        try:
            written = self._results.write(result.content, given.result, source_of(given.file))
        except InTheWayError as error:
            return Outcome(given.number, "failed", reason=str(error))
        except (OSError, ValueError) as error:
            told = error.strerror if isinstance(error, OSError) else str(error)
            if isinstance(error, ValueError) or error.errno in OF_ONE_NAME:
                return Outcome(given.number, "failed", reason=f"its result cannot be written: {told}")
            raise UserError(f"{target}/{given.result} cannot be written: {told}") from None
        return outcome._replace(written=written)

    def _make_shard(self, group: list[Input]) -> list[Outcome]:
        """Write the results of a group as one shard, which goes by its first number."""
        outcomes: list[Outcome] = []
        name = shard_name(group)

        def samples() -> Iterator[Sample]:
            for given, outcome, content in self._restore(group):
                if outcome.status == "failed":
                    outcomes.append(outcome)
                    continue
                key, suffix = f"{given.number:08d}", PurePosixPath(given.result).suffix.lower()
                about = {"source": given.file.name, "status": outcome.status, "faces": outcome.faces}
                outcomes.append(outcome._replace(written=f"{key}{suffix}", file=name))
                yield {"__key__": key, suffix.removeprefix("."): content, "json": json.dumps(about).encode()}

        with tempfile.TemporaryDirectory(prefix="daefr-") as folder:
            try:
                self._results.check(name, self._job.source)
                write_shard(Path(folder) / name, samples())
                written = self._results.write((Path(folder) / name).read_bytes(), name, self._job.source)
            except InTheWayError as error:
                return [Outcome(given.number, "failed", reason=str(error)) for given in group]
            except OSError as error:
                raise UserError(f"{self._job.target}/{name} cannot be written: {error.strerror}") from None
        return [
            each._replace(written=f"{written}/{each.written}", file=written) if each.file else each for each in outcomes
        ]

    def _restore(self, group: list[Input]) -> Iterator[Result]:
        reads = ((read, read.photograph) for read in map(self._read, group))
        for together in in_groups(reads, self._job.compute.batch_size):
            whole = [(read, photograph) for read, photograph in together if isinstance(photograph, Photograph)]
            restorations = iter(self._restore_all([photograph for _, photograph in whole]))
            for read, photograph in together:
                yield self._result(read, photograph if isinstance(photograph, ImageError) else next(restorations))

    def _read(self, given: Input) -> Read:
        file, settings = given.file, self._job.settings
        try:
            data = read_file(file.path, file.stamp, file.offset, file.size)
            return Read(given, data, read_photograph(data, settings.max_pixels, settings.pages))
        except ImageError as error:
            return Read(given, b"", error)
        except (OSError, UserError, s3.StorageError) as error:
            told = error.strerror if isinstance(error, OSError) else str(error)
            return Read(given, b"", ImageError(f"cannot be read: {told}"))

    def _restore_all(self, photographs: Sequence[Photograph]) -> list[Restoration | ImageError]:
        settings = self._job.settings
        restorer = self._restorer
        try:
            return restorer.restore_all(
                photographs,
                aligned=settings.aligned,
                only_center_face=settings.only_center_face,
                upscale=settings.upscale,
            )
        except UserError:
            raise
        except Exception as error:  # whatever a photograph does, the others are to be restored
            if len(photographs) == 1:
                return [ImageError(one_line(f"{type(error).__name__}: {error}"))]
            return [result for photograph in photographs for result in self._restore_all([photograph])]

    def _result(self, read: Read, restoration: Restoration | ImageError) -> Result:
        given, settings = read.given, self._job.settings
        try:
            if isinstance(restoration, ImageError):
                raise restoration
            kind = kind_of(given.result)
            content = encode_result(restoration, read.data, kind, settings.metadata, settings.side_by_side)
        except ImageError as error:
            return Result(given, Outcome(given.number, "failed", reason=str(error)))
        faces = restoration.face_count
        status: Status = "restored" if faces else "no face"
        outcome = Outcome(given.number, status, given.result, faces, pages_left=restoration.pages_left)
        return Result(given, outcome, content)
