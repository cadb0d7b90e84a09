"""The steps of a run, built from its configuration, and the order in which they need each other."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from daefr.settings.base import StageName
from pipelines.config import RunConfig
from pipelines.engine.dataset import Dataset
from pipelines.engine.names import VALIDATION
from pipelines.engine.progress import say
from pipelines.engine.run import STEPS, Run, open_run, open_tracking, open_workdir
from pipelines.engine.signals import run_in_threads
from pipelines.engine.step import StepResult, find_result
from pipelines.synthesize.refresh import Refresh
from pipelines.synthesize.step import Synthesize
from pipelines.tracking import champions, registry

if TYPE_CHECKING:
    from pipelines.evaluate.benchmarks import Benchmark
    from pipelines.evaluate.targets import EvaluationTarget
    from pipelines.promote.gates import MetricSource
    from pipelines.tracking.registry import Version

# The other steps are imported where they are built: PyTorch takes seconds and 500 MB, and planning the synthesis of
# millions of faces does without.

CODEBOOKS: tuple[StageName, StageName] = ("hq_codebook", "lq_codebook")


@dataclass(frozen=True)
class Chain:
    """Runs the steps of a configuration."""

    config: RunConfig
    run: Run

    def run_all(self) -> list[str]:
        """Run every step that is not committed; return the lines that describe the result."""
        dataset = self.synthesize()
        trained: dict[StageName, StepResult] = dict(zip(CODEBOOKS, self._train_codebooks(dataset), strict=True))
        for stage in CODEBOOKS:
            say(self.promote(stage, trained[stage], dataset))
        trained["association"] = self.train("association", dataset, trained)
        say(self.promote("association", trained["association"], dataset))
        trained["restoration"] = self.train("restoration", dataset, trained)
        lines = self.evaluate_and_report(trained["restoration"], dataset)
        say(self.promote("restoration", trained["restoration"], dataset))
        checkpoint = trained["restoration"].folder / trained["restoration"].outputs["checkpoint"]
        return [*lines, f"model: {checkpoint}"]

    def synthesize(self) -> Dataset:
        """Make the dataset, or find it made."""
        config, compute = self.config, self.config.compute
        step = Synthesize.open(
            config.data, config.resolution, config.seed, compute.max_in_flight, compute.max_task_retries
        )
        return Dataset(self.run.execute(step), compute.cache_dir, compute.max_cache_bytes)

    def train(self, stage: StageName, dataset: Dataset, trained: Mapping[StageName, StepResult]) -> StepResult:
        """Train a stage, or find it trained; `trained` has the stages before it.

        The later stages start from the champions of those before, unless the configuration gives them another start.
        """
        from daefr.stages import UPSTREAM
        from pipelines.train.initial import InitialWeights
        from pipelines.train.step import TrainStage

        config, compute = self.config, self.config.compute
        training = config.stages.of(stage).in_steps(dataset.manifest.samples("train"))
        refresh = None
        if config.data.refresh_every_n_epochs and stage != "hq_codebook":  # which sees no LQ image
            refresh = Refresh.during(
                training, config.data.refresh_every_n_epochs, dataset.folder, dataset.fetch, compute.max_task_retries
            )
        step = TrainStage(
            stage=stage,
            network=config.network,
            training=training,
            seed=config.seed,
            dataset=dataset,
            initial=InitialWeights.find(self.run.tracking, stage, training.initial_checkpoint),
            upstream={before: trained[before] for before in UPSTREAM[stage]},
            compute=compute.of(stage),
            refresh=refresh,
            intermediate=compute.checkpoints,
            unavailable_timeout_s=compute.unavailable_timeout_s,
            stop_timeout_s=compute.stop_timeout_s,
            run_config=config.model_dump(mode="json", exclude={"tracking", "compute", "workdir"}),
            faces=tuple(config.data.locations("faces")),
        )
        return self.run.execute(step)

    def train_with_upstream(self, stage: StageName, dataset: Dataset) -> StepResult:
        """Train a stage, or find it trained, after the stages before it."""
        from daefr.stages import UPSTREAM

        trained = {before: self.train_with_upstream(before, dataset) for before in UPSTREAM[stage]}
        return self.train(stage, dataset, trained)

    def evaluate(self, target: "EvaluationTarget", benchmarks: "Sequence[Benchmark]") -> StepResult:
        """Evaluate a target on benchmarks, or find it evaluated."""
        from pipelines.evaluate.step import Evaluate, report_problems

        step = Evaluate(target, benchmarks, self.config.evaluation, self.config.compute.evaluate)
        result = self.run.execute(step)
        report_problems(result)
        return result

    def evaluate_version(self, version: "Version", dataset: Dataset) -> StepResult:
        """Evaluate a registered restoration model on the validation faces and the configured benchmarks."""
        from pipelines.evaluate.targets import DaefrModel

        names = (VALIDATION, *self.config.evaluation.benchmarks)
        return self.evaluate(DaefrModel.registered(self.run.tracking, version), self.benchmarks(names, dataset))

    def benchmarks(self, names: Iterable[str], dataset: Dataset | None) -> "list[Benchmark]":
        """Open benchmarks by name; `dataset` is needed for its validation faces only."""
        from pipelines.evaluate.benchmarks import Shards, open_benchmark, open_shards

        opened = []
        for name in names:
            if name == VALIDATION:
                dataset = dataset or self.synthesize()
                opened.append(open_shards(name, Shards(dataset.folder, "severe", dataset.fetch)))
            else:
                opened.append(open_benchmark(name, self.config.evaluation.benchmarks[name]))
        return opened

    def report(self, candidate: StepResult, champion: StepResult | None) -> str:
        """Write the report of an evaluation, or find it written; return the path of its page."""
        from pipelines.evaluate.report.step import REPORT, Report

        folders = sorted((self.run.workdir / STEPS).glob("evaluate-*"))
        others = [found for folder in folders if (found := find_result(folder)) is not None]
        return str(self.run.execute(Report(candidate, champion, others)).folder / REPORT)

    def evaluate_and_report(self, restoration: StepResult, dataset: Dataset) -> list[str]:
        """Evaluate a trained restoration model beside the one that it would replace; return lines that describe it."""
        from pipelines.evaluate.step import GRID
        from pipelines.evaluate.tables import table

        number, tracking = restoration.outputs["version"], self.run.tracking
        evaluated = self.evaluate_version(registry.version(tracking, "restoration", number), dataset)
        baseline = registry.baseline(tracking, "restoration", number)
        champion = None if baseline is None else self.evaluate_version(baseline, dataset)
        page = self.report(evaluated, champion)
        return [table(evaluated), f"report: {page}", f"grid: {evaluated.folder / GRID}"]

    def promote(self, stage: StageName, trained: StepResult, dataset: Dataset) -> str:
        """Make the trained version the champion of its stage if the gates hold; return the decision in one line."""
        from pipelines.promote.request import PromotionRequest
        from pipelines.promote.step import Promote, champion_of

        config, tracking = self.config, self.run.tracking
        request = PromotionRequest(
            stage=stage,
            candidate=registry.version(tracking, stage, trained.outputs["version"]),
            policy=config.promotion.of(stage),
            training=config.stages.of(stage),
            trained=trained,
            dataset=dataset,
            evaluate=lambda version: self._metrics_of(version, dataset),
        )
        champion = champion_of(tracking, request, champions.champion_state(tracking, request.candidate.name))
        if champion is not None and champion.number == request.candidate.number:
            return f"{champion.address} is the champion"
        evaluation = config.evaluation.model_dump(mode="json")
        step = Promote(request, champion, config.promotion.dry_run, evaluation)
        return step.describe(self.run.execute(step))

    def restore(self, source: str, target: str) -> str:
        """Restore the images of a place into another; return the counts in one line."""
        from pipelines.restore.step import Restore

        config = self.config
        step = Restore.open(self.run.tracking, source, target, config.restore, config.compute.restore)
        return step.describe(self.run.execute(step))

    def _metrics_of(self, version: "Version", dataset: Dataset) -> "MetricSource":
        """Evaluate a version for a gate, in whatever run; return its metrics."""
        from pipelines.evaluated import evaluated_metric

        unrestricted = Chain(self.config, replace(self.run, executable=None))
        return partial(evaluated_metric, unrestricted.evaluate_version(version, dataset))

    def _train_codebooks(self, dataset: Dataset) -> list[StepResult]:
        """Train both codebooks, at the same time where the cluster has room for both."""
        return run_in_threads([partial(self.train, stage, dataset, {}) for stage in CODEBOOKS])


@contextmanager
def open_chain(config: RunConfig, name: str, executable: tuple[str, ...] | None = None) -> Iterator[Chain]:
    """Open the run directory, MLflow and a run of that name; see `pipelines.engine.run.open_run`."""
    workdir = open_workdir(config.workdir)
    tracking = open_tracking(config.tracking, workdir, config.compute.unavailable_timeout_s)
    settings, wait = config.model_dump(mode="json"), config.compute.wait_for_lease
    with open_run(name, workdir, tracking, settings, executable, wait_for_lease=wait) as run:
        yield Chain(config, run)
