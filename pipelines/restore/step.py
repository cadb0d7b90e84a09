"""Step: restore the images of a place with a trained model, each accounted for. Ray Data streams them to workers."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daefr.errors import UserError
from daefr.faces.detector import find_detector
from daefr.files import file_digest
from daefr.listing import PassedOver
from daefr.outputs import InTheWayError
from daefr.restore.masks import find_parser
from pipelines.engine import cluster
from pipelines.engine.progress import bar
from pipelines.engine.restoration import located
from pipelines.engine.step import Step, StepContext, StepInput, StepOutput, StepResult
from pipelines.errors import StepFailedError
from pipelines.restore.ledger import Ledger
from pipelines.restore.settings import RestoreCompute, RestoreConfig
from pipelines.restore.worker import RestoreJob, results_of
from pipelines.storage.address import is_address, split_address
from pipelines.storage.files import File, list_files, list_whole_files, log_passed_over
from pipelines.storage.listing import ListingDigest
from pipelines.storage.paths import absolute
from pipelines.storage.results import Written
from pipelines.tracking.client import Tracking
from pipelines.tracking.models import Model, find_model

LEDGER, MANIFEST = "inputs.db", "manifest.jsonl"


@dataclass(frozen=True)
class Restore(Step):
    """Restores the images of `source` into `target`."""

    source: str
    target: str
    model: Model
    config: RestoreConfig
    compute: RestoreCompute
    weights: dict[str, Path | None]
    """The detector, the parser and the upscaler that are used."""

    name = "restore"
    version = 3

    @classmethod
    def open(
        cls, tracking: Tracking, source: str, target: str, config: RestoreConfig, compute: RestoreCompute
    ) -> "Restore":
        """Find the places, the model and the weights. Raises `UserError` for what does not exist."""
        source, target = _place(source, "IN"), _place(target, "OUT")
        if f"{target}/".startswith(f"{source}/") or f"{source}/".startswith(f"{target}/"):
            raise UserError(f"IN={source} and OUT={target} lie within one another: give separate places")
        if not is_address(target) and Path(target).exists() and not Path(target).is_dir():
            raise UserError(f"OUT={target} is a file: give a folder")
        model = find_model(tracking, config.model)  # before any weights are downloaded
        config = located(config)
        weights = {
            "detector": None if config.aligned else find_detector(config.detector),
            "parser": find_parser(config.parser),
            "upscaler": config.upscaler,
        }
        return cls(source, target, model, config, compute, weights)

    def settings(self) -> dict[str, Any]:
        """See `Step`."""
        excluded = {"model", *self.weights, "max_failed_fraction", "on_conflict"}
        settings = self.config.model_dump(mode="json", exclude=excluded)
        return {"source": self.source, "target": self.target, **settings}

    def inputs(self) -> dict[str, StepInput]:
        """See `Step`."""
        inputs = {"model": StepInput(digest=self.model.digest, origin=self.model.name)}
        for name, path in self.weights.items():
            if path is not None:
                inputs[name] = StepInput(digest=file_digest(path), origin=str(path))
        return inputs

    def run(self, context: StepContext) -> StepOutput:
        """See `Step`."""
        model = self.model.fetch(context.tracking, context.folder)
        job = RestoreJob(self.source, self.target, context.workdir, model, self.config, self.compute)
        results = job.results(Written.of_place(context.workdir, self.target))
        with _reporting_conflicts(f"{self.target}/{MANIFEST}"):
            results.check(MANIFEST, self.source)
        ledger = Ledger(context.folder / LEDGER)
        passed_over = PassedOver()
        ledger.plan(self._files(passed_over), results_of(self.config))
        if not ledger.counts()["inputs"]:
            holds = f"has no image{passed_over.summary()}" if passed_over.summary() else "is empty"
            raise UserError(f"IN={self.source} {holds}; give a place with images")
        log_passed_over(passed_over, f"IN={self.source}")
        ledger.forget_missing(_written(self.target))
        _restore_all(ledger, job)
        counts = ledger.counts()
        ledger.write(context.folder / MANIFEST)
        with _reporting_conflicts(f"{self.target}/{MANIFEST}"):
            manifest = results.write((context.folder / MANIFEST).read_bytes(), MANIFEST, self.source)
        with context.writer() as writer:
            writer.log(0, {status.replace(" ", "_"): float(count) for status, count in counts.items()})
        outputs = {
            "counts": counts,
            "passed_over": passed_over.summary(),
            "sources": ListingDigest.of(self._files()),
            "manifest": manifest,
        }
        return StepOutput(outputs, [LEDGER, MANIFEST])

    def is_still_valid(self, result: StepResult) -> bool:
        """See `Step`: whether no image failed, the sources are the same, and all results exist."""
        outputs = result.outputs
        return (
            not outputs["counts"]["failed"]
            and outputs["sources"] == ListingDigest.of(self._files())
            and not Ledger(result.folder / LEDGER).forget_missing(_written(self.target))
        )

    def describe(self, result: StepResult) -> str:
        """Return in one line how many images were restored.

        Raises `StepFailedError` when more failed than `restore.max_failed_fraction` allows; all others are restored.
        """
        counts = result.outputs["counts"]
        summary = ", ".join(f"{counts[status]} {status}" for status in ("restored", "no face", "failed"))
        summary = f"{summary} of {counts['inputs']}{result.outputs['passed_over']}"
        summary = f"{summary}: {self.target}/{result.outputs['manifest']}"
        if counts["failed"] > self.config.max_failed_fraction * counts["inputs"]:
            raise StepFailedError(f"{summary} has the reasons; the same command tries again")
        return summary

    def _files(self, passed_over: PassedOver | None = None) -> Iterator[File]:
        place = self.source
        try:
            yield from list_files(place, passed_over, without=self.target)
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"IN={place} is not a folder: give one, a tar file or an s3://bucket/prefix") from None
        except OSError as error:
            raise UserError(f"IN={place} cannot be listed: {error.strerror}") from None


def _restore_all(ledger: Ledger, job: RestoreJob) -> None:
    """Restore what is unfinished: first many images at a time, then what was lost with a worker one by one."""
    from pipelines.restore import stream  # noqa: PLC0415  # Ray Data takes a second to import, which other jobs do without

    whole = job.settings.samples_per_shard is not None
    sizes = [job.settings.samples_per_shard] if job.settings.samples_per_shard else [job.compute.batch_size, 1]
    start = ledger.counts()
    done = start["inputs"] - start["unfinished"]
    with bar("restore", start["inputs"], "images", done) as shown:
        for size in sizes:
            if not ledger.begin(size, whole):
                return
            cluster.connect()
            for outcomes in stream.restore_groups(ledger.path, size, job):
                ledger.record(outcomes)
                done += len(outcomes)
                shown.update(min(done, start["inputs"]))
    ledger.lose_unfinished("every worker that was given it died")


def _place(place: str, name: str) -> str:
    if not is_address(place):
        return str(absolute(Path(place)).resolve())
    try:
        split_address(place)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None
    return place.rstrip("/")


@contextmanager
def _reporting_conflicts(manifest: str) -> Iterator[None]:
    """Raise `UserError` where the manifest of the job cannot be written."""
    try:
        yield
    except InTheWayError as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(f"{manifest} cannot be written: {error.strerror}") from None


def _written(target: str) -> Iterator[str]:
    """Yield the names of the files in OUT."""
    with suppress(FileNotFoundError):  # there is none yet
        yield from (file.name for file in list_whole_files(target))
