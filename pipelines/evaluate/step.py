"""Step: restore the images of benchmarks, or take precomputed results, and compute metrics."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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
from pipelines.engine.step import Step, StepContext, StepInput, StepOutput, StepResult
from pipelines.engine.tasks import run_on_actors
from pipelines.evaluate.benchmarks import Benchmark
from pipelines.evaluate.parts import PARTS, THUMBNAIL, THUMBNAILS, EvaluatorFactory, Part, is_complete, split_into_parts
from pipelines.evaluate.results import METRICS_FILE, Summary, load_summary, metrics_file
from pipelines.evaluate.settings import EvaluateCompute, EvaluationConfig
from pipelines.evaluate.summarize import (
    codebook_usage,
    count_codes,
    find_resolution,
    merge_compute_info,
    summarize,
    write_metrics_file,
)
from pipelines.evaluate.targets import DaefrModel, EvaluationTarget

GRID, CODES = "grid.png", "codes.json"
GRID_FACES = 8


@dataclass(frozen=True)
class Evaluate(Step):
    """Evaluates a target on benchmarks."""

    target: EvaluationTarget
    benchmarks: Sequence[Benchmark]
    config: EvaluationConfig
    compute: EvaluateCompute

    name = "evaluate"
    version = 3

    def settings(self) -> dict[str, Any]:
        """See `Step`."""
        return {
            "protocol": self.config.protocol,
            "measures": list(self.config.metrics),  # this key is part of the fingerprints of older evaluations
            "available": list(self.available),
        }

    def inputs(self) -> dict[str, StepInput]:
        """See `Step`."""
        inputs = {"target": StepInput(digest=self.target.digest, origin=self.target.origin)}
        for benchmark in self.benchmarks:
            inputs[f"benchmark {benchmark.name}"] = StepInput(digest=benchmark.digest, origin=benchmark.origin)
            if benchmark.restored:
                restored = StepInput(digest=benchmark.restored, origin=self.target.origin)
                inputs[f"restored {benchmark.name}"] = restored
        if self.config.fid_statistics is not None and "fid" in self.available:
            path = self.config.fid_statistics
            inputs["statistics"] = StepInput(digest=file_digest(path), origin=str(path))
        return inputs

    def run(self, context: StepContext) -> StepOutput:
        """See `Step`."""
        parts = {benchmark.name: self._split(benchmark, context.folder) for benchmark in self.benchmarks}
        self._evaluate_parts([part for each in parts.values() for part in each])
        write_metrics_file(context.folder, parts)
        summary = self.summarize(parts)
        files = [METRICS_FILE, PARTS, *_write_codes(context.folder, parts), *_write_grid(context.folder, parts)]
        _log(context, summary, files)
        return StepOutput(summary.model_dump(mode="json"), files)

    def summarize(self, parts: Mapping[str, Sequence[Part]]) -> Summary:
        """Return the summary of finished parts, by the name of their benchmark."""
        real = real_statistics(self._setup) if "fid" in self.available else None
        all_parts = [part for each in parts.values() for part in each]
        counts = count_codes(all_parts)
        return Summary(
            target=self.target.label,
            protocol=self.config.protocol,
            benchmarks={
                benchmark.name: summarize(
                    benchmark, parts[benchmark.name], self.config.metrics, real, self._unavailable
                )
                for benchmark in self.benchmarks
            },
            codebook=None if counts is None else codebook_usage(counts),
            resolution=find_resolution(all_parts),
            computed=merge_compute_info(all_parts),
        )

    @cached_property
    def available(self) -> tuple[MetricName, ...]:
        """The metrics whose files were found."""
        return tuple(name for name in self.config.metrics if name not in self._unavailable)

    @cached_property
    def _unavailable(self) -> dict[str, str]:
        """The metrics whose files were not found, with the reasons."""
        problems: dict[str, str] = {}
        for name in self.config.metrics:
            try:
                find_files(name, self._setup)
            except UserError as error:
                problems[name] = str(error)
        return problems

    @property
    def _setup(self) -> MetricSetup:
        config = self.config
        return MetricSetup(config.protocol, torch.device("cpu"), config.weights, config.fid_statistics)

    def _split(self, benchmark: Benchmark, folder: Path) -> list[Part]:
        # reconstructing HQ costs as much as restoring, and its metrics are of interest for training only
        reconstruct = benchmark.name == VALIDATION and isinstance(self.target, DaefrModel)
        return split_into_parts(benchmark, folder, reconstruct=reconstruct)

    def _evaluate_parts(self, parts: Sequence[Part]) -> None:
        unfinished = [part for part in parts if not is_complete(part.path)]
        if not unfinished:
            return
        cluster.connect()
        compute, total = self.compute, sum(len(part.items) for part in parts)
        actors = self._count_actors(len(unfinished))
        done = total - sum(len(part.items) for part in unfinished)
        needed = {"CPU": actors * compute.cpus_per_worker} | ({"GPU": actors} if compute.use_gpu else {})
        with cluster.reserve(self.name, needed, say), bar(self.name, total, "images", done) as progress:
            finished = run_on_actors(
                self._factory(),
                ((str(part.path), part) for part in unfinished),
                actors=actors,
                cpus=compute.cpus_per_worker,
                gpus=float(compute.use_gpu),
                retries=compute.max_failures,
            )
            for _, images in finished:
                done += images
                progress.update(done)

    def _count_actors(self, parts: int) -> int:
        compute, total = self.compute, cluster.resources()
        fitting = int(
            min(total.get("CPU", 0) // compute.cpus_per_worker, total.get("GPU", 0) if compute.use_gpu else parts)
        )
        return min(parts, compute.workers or max(1, fitting))

    def _factory(self) -> EvaluatorFactory:
        config, compute = self.config, self.compute
        return EvaluatorFactory(
            self.target, self.available, config.protocol, config.weights, config.fid_statistics,
            compute.cpus_per_worker, compute.use_gpu,
        )  # fmt: skip


def _write_codes(folder: Path, parts: Mapping[str, Sequence[Part]]) -> list[str]:
    """Write how often each code was chosen; return the file's name, or nothing if there is no codebook."""
    counts = count_codes([part for each in parts.values() for part in each])
    if counts is None:
        return []
    (folder / CODES).write_text(json.dumps(counts.tolist()) + "\n")
    return [CODES]


def _write_grid(folder: Path, parts: Mapping[str, Sequence[Part]]) -> list[str]:
    """Draw the first faces; return the file's name, or nothing if no face was restored."""
    faces = list(_first_faces(parts))
    if not faces:
        return []
    (folder / GRID).write_bytes(encode_png(draw_grid(faces)))
    return [GRID]


def _first_faces(parts: Mapping[str, Sequence[Part]]) -> Iterator[dict[str, Any]]:
    """Yield the thumbnails of the first restored faces."""
    columns = [f"{THUMBNAIL}{name}" for name in THUMBNAILS]
    left = GRID_FACES
    for part in (part for each in parts.values() for part in each):
        for row in pq.read_table(part.path, columns=columns).to_pylist():
            if left and row[f"{THUMBNAIL}restored"]:
                left -= 1
                yield {name.removeprefix(THUMBNAIL): decode_image(data) for name, data in row.items() if data}
        if not left:
            return


def _log(context: StepContext, summary: Summary, files: Sequence[str]) -> None:
    """Log metrics and files to the MLflow runs of the step and of the pipeline."""
    metrics = {
        f"{benchmark}/{name}/{kind}": result.value
        for benchmark, found in summary.benchmarks.items()
        for kind, results in found.metrics.items()
        for name, result in results.items()
        if result.value is not None
    }
    if summary.codebook is not None:
        metrics["dead_codes"] = summary.codebook.dead
    for run_id in (context.run_id, context.parent_run_id):
        context.tracking.set_tag(run_id, "daefr.subject", summary.target)
        for name in files:
            if name != PARTS:
                context.tracking.client.log_artifact(run_id, str(context.folder / name))
        with context.writer(run_id) as writer:
            writer.log(0, metrics)


def report_problems(evaluated: StepResult) -> None:
    """Print how many images could not be measured."""
    for name, found in load_summary(evaluated.outputs).benchmarks.items():
        if found.missing or found.failed:
            say(f"{name}: {found.missing} missing, {found.failed} failed; see {metrics_file(evaluated.folder)}")
