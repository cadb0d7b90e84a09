"""A request to promote a candidate, which its gates decide on."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from daefr.settings.base import StageName
from daefr.settings.training import TrainingConfig
from pipelines.engine.compute_info import ComputeInfo
from pipelines.engine.dataset import Dataset
from pipelines.engine.step import StepResult
from pipelines.engine.tasks import run_task
from pipelines.engine.validation import ValidationMetrics, recorded_computed, recorded_metrics
from pipelines.promote.gates import Decision, GateMetric, MetricSource, decide
from pipelines.promote.settings import EVALUATION_METRICS, Gate, StagePromotion
from pipelines.promote.validation import COMPUTED, validate_version, validation_metric
from pipelines.tracking.champions import ROLLED_BACK
from pipelines.tracking.client import Tracking
from pipelines.tracking.registry import Version

EvaluateVersion = Callable[[Version], MetricSource]
"""Evaluates a version, or finds its evaluation, and returns its metrics of restored faces."""


@dataclass(frozen=True)
class PromotionRequest:
    """A candidate, its training, and the dataset on which it is compared with the champion."""

    stage: StageName
    candidate: Version
    policy: StagePromotion
    training: TrainingConfig
    trained: StepResult
    dataset: Dataset
    evaluate: EvaluateVersion

    @property
    def needs_evaluation(self) -> bool:
        """Whether a gate needs a metric of restored faces."""
        return any(gate.metric in EVALUATION_METRICS for gate in self.policy.gates)

    def decide(self, tracking: Tracking, champion: Version | None) -> Decision:
        """Check the candidate against its gates and the champion, if there is one."""
        gates, tags = self.policy.gates, self.candidate.tags
        if ROLLED_BACK in tags:
            return Decision(refusal=f"it was rolled back ({tags[ROLLED_BACK]}); delete its tag {ROLLED_BACK} first")
        ours = self._metrics(self.candidate, self.trained.outputs, recorded_computed(self.candidate))
        if champion is None:
            return decide(gates, ours, None, "there is no champion")
        metrics, computed = self._validate(tracking, champion)
        if metrics is None:
            side = self.dataset.manifest.resolution
            return decide(gates, ours, None, f"the champion {champion.address} has another resolution than {side}")
        return decide(gates, ours, self._metrics(champion, metrics, computed))

    def _metrics(self, version: Version, validation: ValidationMetrics, computed: ComputeInfo | None) -> MetricSource:
        """Return a version's metrics, of validation and of an evaluation that runs when a gate needs it."""
        evaluated = cache(lambda: self.evaluate(version))

        def metric(gate: Gate) -> GateMetric:
            return (
                evaluated()(gate)
                if gate.metric in EVALUATION_METRICS
                else validation_metric(validation, gate, computed)
            )

        return metric

    def _validate(self, tracking: Tracking, champion: Version) -> tuple[ValidationMetrics | None, ComputeInfo | None]:
        """Return the champion's metrics on the candidate's validation faces, None if it is for another resolution."""
        recorded = recorded_metrics(champion, self.dataset.manifest, self.training)
        if recorded is not None:
            return recorded, recorded_computed(champion)
        arguments = (tracking, champion, self.training, self.dataset.folder, self.dataset.fetch)
        return run_task(f"promote_{self.stage}", validate_version, *arguments), COMPUTED
