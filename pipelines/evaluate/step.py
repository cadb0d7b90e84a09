"""Step: restore the images of benchmarks with a model, or take what was restored of them, and measure.

Without options, the run's own restoration model is evaluated.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from daefr.errors import UserError
from daefr.evaluation import draw_grid
from daefr.files import file_digest
from daefr.images import decode_image, encode_png
from daefr.metrics.registry import MetricSetup, find_files, real_statistics
from daefr.settings.metrics import MetricName
from pipelines.engine import cluster
from pipelines.engine.names import VALIDATION
from pipelines.engine.progress import bar, say
from pipelines.engine.run import Run
from pipelines.engine.step import Committed, StepInput
from pipelines.engine.tasks import run_on_actors
from pipelines.evaluate.benchmarks import Benchmark, Shards, open_benchmark, open_shards
from pipelines.evaluate.contenders import Contender, OurModel
from pipelines.evaluate.figures import FIGURES, Summary, summary_of
from pipelines.evaluate.parts import PARTS, THUMBNAIL, THUMBNAILS, Evaluate, Part, divide, is_whole
from pipelines.evaluate.summarize import computed_by, count_codes, resolution_of, summarize, usage, write_figures
from pipelines.synthesize.step import DATASET, shard_cache
from pipelines.tracking import registry
from pipelines.tracking.registry import Version

VERSION = 2
GRID, CODES = "grid.png", "codes.json"
GRID_FACES = 8


def evaluate_restoration(run: Run, restoration: Committed, dataset: Committed) -> Committed:
    """Measure the restoration checkpoint of a run on the validation faces and the configured benchmarks."""
    version = registry.version(run.tracking, "restoration", restoration.manifest.outputs["version"])
    return evaluate_version(run, version, dataset)


def evaluate_version(run: Run, version: Version, dataset: Committed) -> Committed:
    """Measure a registered restoration model on the same images as `evaluate_restoration`."""
    return evaluate(run, OurModel.registered(run.tracking, version), own_benchmarks(run, dataset))


def own_benchmarks(run: Run, dataset: Committed) -> list[Benchmark]:
    """Return what a run evaluates its models on: the dataset's validation faces, and what is configured."""
    return [open_validation(run, dataset), *open_configured(run)]


def open_validation(run: Run, dataset: Committed) -> Benchmark:
    """Return the validation faces of a run's dataset."""
    folder = dataset.folder / DATASET
    return open_shards(VALIDATION, Shards(folder, "severe", shard_cache(run, folder)))


def open_configured(run: Run) -> list[Benchmark]:
    """Return the benchmarks of the configuration."""
    return [open_benchmark(name, config) for name, config in run.config.evaluation.benchmarks.items()]


def evaluate(run: Run, contender: Contender, benchmarks: Sequence[Benchmark]) -> Committed:
    """Evaluate a contender on benchmarks, or find it evaluated."""
    config = run.config.evaluation
    available, lacking = _available(run)
    settings = {"protocol": config.protocol, "measures": list(config.measures), "available": list(available)}
    inputs = {"contender": StepInput(digest=contender.digest, origin=contender.origin)}
    for benchmark in benchmarks:
        inputs[f"benchmark {benchmark.name}"] = StepInput(digest=benchmark.digest, origin=benchmark.origin)
        if benchmark.restored:
            inputs[f"restored {benchmark.name}"] = StepInput(digest=benchmark.restored, origin=contender.origin)
    if config.fid_statistics is not None and "fid" in available:
        digest = file_digest(config.fid_statistics)
        inputs["statistics"] = StepInput(digest=digest, origin=str(config.fid_statistics))

    def work(folder: Path, run_id: str) -> tuple[dict[str, Any], list[str]]:
        parts = {
            # what restoration could reach is for those who train, and costs as much as restoring
            benchmark.name: divide(
                benchmark, folder, reconstruct=benchmark.name == VALIDATION and isinstance(contender, OurModel)
            )
            for benchmark in benchmarks
        }
        _run_parts(run, contender, available, parts)
        write_figures(folder, parts)
        real = real_statistics(_setup(run)) if "fid" in available else None
        counts = count_codes([part for each in parts.values() for part in each])
        summary = Summary(
            subject=contender.label,
            protocol=config.protocol,
            benchmarks={
                benchmark.name: summarize(benchmark, parts[benchmark.name], config.measures, real, lacking)
                for benchmark in benchmarks
            },
            codebook=None if counts is None else usage(counts),
            resolution=resolution_of([part for each in parts.values() for part in each]),
            computed=computed_by([part for each in parts.values() for part in each]),
        )
        files = [FIGURES, PARTS]
        if counts is not None:
            (folder / CODES).write_text(json.dumps(counts.tolist()) + "\n")
            files.append(CODES)
        faces = list(_first_faces(parts))
        if faces:
            (folder / GRID).write_bytes(encode_png(draw_grid(faces)))
            files.append(GRID)
        _log(run, run_id, folder, summary, files)
        return summary.model_dump(mode="json"), files

    committed = run.step("evaluate", VERSION, settings, inputs, work)
    _tell_problems(committed)
    return committed


def _setup(run: Run) -> MetricSetup:
    config = run.config.evaluation
    return MetricSetup(config.protocol, torch.device("cpu"), config.weights, config.fid_statistics)


def _available(run: Run) -> tuple[tuple[MetricName, ...], dict[str, str]]:
    """Return the measures whose files are to be had, and of the others, why not."""
    setup = _setup(run)
    lacking: dict[str, str] = {}
    for name in run.config.evaluation.measures:
        try:
            find_files(name, setup)
        except UserError as error:
            lacking[name] = str(error)
    return tuple(name for name in run.config.evaluation.measures if name not in lacking), lacking


def _run_parts(
    run: Run, contender: Contender, measures: tuple[MetricName, ...], parts: Mapping[str, Sequence[Part]]
) -> None:
    """Evaluate the parts that are not finished yet."""
    every = [part for each in parts.values() for part in each]
    left = [part for part in every if not is_whole(part.path)]
    if not left:
        return
    cluster.connect()
    config, compute = run.config.evaluation, run.config.compute.evaluate
    whole = cluster.resources()
    fitting = int(min(whole.get("CPU", 0) // compute.cpus, whole.get("GPU", 0) if compute.gpu else len(left)))
    actors = min(len(left), compute.actors or max(1, fitting))
    make = Evaluate(
        contender, measures, config.protocol, config.weights, config.fid_statistics, compute.cpus, compute.gpu
    )
    done = sum(len(part.items) for part in every) - sum(len(part.items) for part in left)
    total = sum(len(part.items) for part in every)
    wanted = {"CPU": actors * compute.cpus} | ({"GPU": actors} if compute.gpu else {})
    with cluster.room("evaluate", wanted, say), bar("evaluate", total, "images", done) as shown:
        finished = run_on_actors(
            make,
            ((str(part.path), part) for part in left),
            actors=actors,
            cpus=compute.cpus,
            gpus=float(compute.gpu),
            retries=compute.max_failures,
        )
        for _, images in finished:
            done += images
            shown.update(done)


def _first_faces(parts: Mapping[str, Sequence[Part]]) -> Iterator[dict[str, Any]]:
    """Yield thumbnails of the first faces that were restored, of the first benchmark that has any."""
    columns = [f"{THUMBNAIL}{name}" for name in THUMBNAILS]
    left = GRID_FACES
    for part in (part for each in parts.values() for part in each):
        for row in pq.read_table(part.path, columns=columns).to_pylist():
            if left and row[f"{THUMBNAIL}restored"]:
                left -= 1
                yield {name.removeprefix(THUMBNAIL): decode_image(data) for name, data in row.items() if data}
        if not left:
            return


def _log(run: Run, run_id: str, folder: Path, summary: Summary, files: Sequence[str]) -> None:
    """Record figures and files on the step's run, and on the whole pipeline's where the model is its own."""
    numbers = {
        f"{benchmark}/{name}/{subject}": figure.value
        for benchmark, found in summary.benchmarks.items()
        for subject, figures in found.figures.items()
        for name, figure in figures.items()
        if figure.value is not None
    }
    if summary.codebook is not None:
        numbers["dead_codes"] = summary.codebook.dead
    for target in (run_id, run.parent):
        run.tracking.link(target, "daefr.subject", summary.subject)
        for name in files:
            if name != PARTS:
                run.tracking.client.log_artifact(target, str(folder / name))
        with run.writer(target) as writer:
            writer.log(0, numbers)


def _tell_problems(evaluated: Committed) -> None:
    for name, found in summary_of(evaluated.manifest.outputs).benchmarks.items():
        if found.missing or found.failed:
            say(f"{name}: {found.missing} missing, {found.failed} failed: {evaluated.folder / FIGURES} names them")
