"""Job: restore the images of a place with a trained model, each accounted for. Ray Data streams them to workers."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # run as a script: put the project on the path, and let Ray's workers find this file under its module's name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from pipelines.cli import run_command

    sys.exit(run_command("pipelines.restore"))

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from daefr.data.shards import file_digest
from daefr.errors import UserError
from daefr.faces import find_detector
from daefr.outputs import InTheWayError
from daefr.restore.masks import find_parser
from pipelines import cluster
from pipelines.cli import StepCommand
from pipelines.config import RunConfig
from pipelines.errors import StepFailedError
from pipelines.models import find_model, located
from pipelines.progress import bar
from pipelines.restoring.ledger import Ledger
from pipelines.restoring.worker import Job, results_of
from pipelines.run import Run, absolute
from pipelines.steps import Committed, StepInput
from pipelines.storage.files import File, list_files, list_whole_files
from pipelines.storage.results import Written
from pipelines.storage.s3 import is_address, split_address
from pipelines.synthesis.sources import Source, SourcesDigest

VERSION = 2
OVERRIDE = re.compile(r"[a-z_.0-9]+=")
LEDGER, MANIFEST = "inputs.db", "manifest.jsonl"


def restore(run: Run, source: str, target: str) -> list[str]:
    """Restore the images of `source` into `target`, or find it done; return the line that tells how many.

    Raises `StepFailedError` when more failed than `restore.max_failed` allows: all others are restored then.
    """
    source, target = _place(source, "IN"), _place(target, "OUT")
    if f"{target}/".startswith(f"{source}/") or f"{source}/".startswith(f"{target}/"):
        raise UserError(f"IN={source} and OUT={target} lie within one another: give places apart")
    if not is_address(target) and Path(target).exists() and not Path(target).is_dir():
        raise UserError(f"OUT={target} is a file: give a folder")
    done = _restored(run, source, target)
    counts, manifest = done.manifest.outputs["counts"], f"{target}/{done.manifest.outputs['manifest']}"
    told = ", ".join(f"{counts[status]} {status}" for status in ("restored", "no face", "failed"))
    if counts["failed"] > run.config.restore.max_failed * counts["inputs"]:
        raise StepFailedError(f"{told} of {counts['inputs']}: {manifest} tells why; the same command tries again")
    return [f"{told} of {counts['inputs']}: {manifest}"]


def _restored(run: Run, source: str, target: str) -> Committed:
    settings, compute = located(run.config.restore), run.config.compute.restore
    model = find_model(run.tracking, settings.model)
    inputs = {"model": StepInput(digest=model.digest, origin=model.name)}
    weights = {
        "detector": None if settings.aligned else find_detector(settings.detector),
        "parser": find_parser(settings.parser),
        "upscaler": settings.upscaler,
    }
    for name, path in weights.items():
        if path is not None:
            inputs[name] = StepInput(digest=file_digest(path), origin=str(path))

    def work(folder: Path, run_id: str) -> tuple[dict[str, Any], list[str]]:
        job = Job(source, target, run.workdir, model.fetch(run.tracking, folder), settings, compute)
        results = job.results(Written.of_place(run.workdir, target))
        with _told(f"{target}/{MANIFEST}"):
            results.check(MANIFEST, source)
        ledger = Ledger(folder / LEDGER)
        ledger.plan(_files(source), results_of(settings))
        if not ledger.counts()["inputs"]:
            raise UserError(f"IN={source} is empty; give a place with images")
        ledger.forget_missing(_written(target))
        _restore_all(ledger, job)
        counts = ledger.counts()
        ledger.write(folder / MANIFEST)
        with _told(f"{target}/{MANIFEST}"):
            manifest = results.write((folder / MANIFEST).read_bytes(), MANIFEST, source)
        with run.writer(run_id) as writer:
            writer.log(0, {status.replace(" ", "_"): float(count) for status, count in counts.items()})
        sources = SourcesDigest.of(map(_source, _files(source)))
        return {"counts": counts, "sources": sources, "manifest": manifest}, [LEDGER, MANIFEST]

    def holds(found: Committed) -> bool:
        outputs = found.manifest.outputs
        return (
            not outputs["counts"]["failed"]
            and outputs["sources"] == SourcesDigest.of(map(_source, _files(source)))
            and not Ledger(found.folder / LEDGER).forget_missing(_written(target))
        )

    wanted = settings.model_dump(mode="json", exclude={"model", *weights, "max_failed", "on_conflict"})
    asked = {"source": source, "target": target, **wanted}
    return run.step("restore", VERSION, asked, inputs, work, holds=holds)


def _restore_all(ledger: Ledger, job: Job) -> None:
    """Restore what is unfinished: first many images at a time, then what was lost with a worker one by one."""
    from pipelines.restoring import stream  # noqa: PLC0415  # Ray Data takes a second to import, which other jobs do without

    whole = job.settings.shard_samples is not None
    sizes = [job.settings.shard_samples] if job.settings.shard_samples else [job.compute.images, 1]
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


def _files(place: str) -> Iterator[File]:
    try:
        yield from list_files(place)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"IN={place} is not a folder: give one, a tar file or an s3://bucket/prefix") from None
    except OSError as error:
        raise UserError(f"IN={place} cannot be listed: {error.strerror}") from None


@contextmanager
def _told(manifest: str) -> Iterator[None]:
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


def _source(file: File) -> Source:
    return Source(file.name, file.path, 0, file.size, file.stamp, file.offset)


class _Restore(StepCommand):
    name = "restore"
    shortcuts = ("restore.model", "restore.aligned", "restore.only_center_face")

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        place = "a folder or s3://bucket/prefix"
        parser.add_argument("source", metavar="IN", help=f"{place} of images, or of tar files with such; or a tar file")
        parser.add_argument("target", metavar="OUT", help=f"{place} for the restored images and their manifest")
        parser.add_argument("--model", help="stands for restore.model=MODEL")
        parser.add_argument("--aligned", action="store_true", help="stands for restore.aligned=true")
        parser.add_argument("--only-center-face", action="store_true", help="stands for restore.only_center_face=true")

    def sort_out(self, options: argparse.Namespace) -> None:
        # overrides and places may come in any order; a place with such a name can be given as ./a=b
        given = [options.source, options.target, *options.overrides]
        places = [place for place in given if not OVERRIDE.match(place)]
        if len(places) != 2:
            raise UserError(f"IN and OUT are wanted, and given are {', '.join(places) or 'none'}")
        options.source, options.target = places
        options.overrides = [override for override in given if OVERRIDE.match(override)]

    def check(self, config: RunConfig) -> None:
        pass  # what the stages need is not needed here

    def work(self, run: Run, options: argparse.Namespace) -> list[str]:
        return restore(run, options.source, options.target)


COMMAND = _Restore()
