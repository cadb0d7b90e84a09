"""Gates: the conditions that a candidate must satisfy to become the champion, each with a reason for its result."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from daefr.errors import UserError
from daefr.metrics.bootstrap import Interval, mean_difference
from pipelines.engine.compute_info import ComputeInfo, rounding_tolerance
from pipelines.engine.names import VALIDATION
from pipelines.promote.settings import Gate

DEFAULT_CONFIDENCE = 0.95
"""Of the interval that is reported if the gate does not set `confidence`."""


@dataclass(frozen=True)
class GateMetric:
    """A metric of a model: its value, its values for each image (NaN if undefined), or why there is no value."""

    value: float | None
    problem: str = ""
    images: Mapping[str, float] = field(default_factory=dict)
    computed: ComputeInfo | None = None
    """How it was computed, None if that was not recorded."""


MetricSource = Callable[[Gate], GateMetric]
"""Returns the metric that a gate needs."""


@dataclass(frozen=True)
class GateResult:
    """Whether a candidate passed a gate, the reason, and the metric's values of the candidate and the champion."""

    gate: Gate
    passed: bool
    reason: str
    values: tuple[float | None, float | None] = (None, None)
    unavailable: bool = False
    """Whether it failed because a metric was unavailable, so that it may pass later."""


@dataclass(frozen=True)
class Decision:
    """Whether a candidate becomes the champion: the result of every gate, and other reasons."""

    results: tuple[GateResult, ...] = ()
    refusal: str = ""
    remark: str = ""

    @property
    def promoted(self) -> bool:
        """Whether all gates passed and nothing else prevents the promotion."""
        return not self.refusal and all(result.passed for result in self.results)

    @property
    def reason(self) -> str:
        """All reasons in one line, failed gates first."""
        ordered = sorted(self.results, key=lambda result: result.passed)
        return "; ".join(filter(None, [self.refusal, *(result.reason for result in ordered), self.remark]))

    @property
    def metrics(self) -> dict[str, tuple[float | None, float | None]]:
        """The values of the candidate and the champion by `BENCHMARK/METRIC`."""
        return {f"{result.gate.benchmark}/{result.gate.metric}": result.values for result in self.results}


def decide(
    gates: tuple[Gate, ...], candidate: MetricSource, champion: MetricSource | None, remark: str = ""
) -> Decision:
    """Check a candidate against every gate. Without a champion, only absolute bounds can fail."""
    return Decision(tuple(check_gate(gate, candidate, champion) for gate in gates), remark=remark)


def check_gate(gate: Gate, candidate: MetricSource, champion: MetricSource | None) -> GateResult:
    """Check a candidate against one gate, which fails if a metric that it needs is unavailable."""
    ours = candidate(gate)
    if ours.value is None:
        return GateResult(gate, False, f"{_name(gate)} is unavailable: {ours.problem}", unavailable=True)
    bounds = [
        (gate.min_value, "at least", gate.min_value is None or ours.value >= gate.min_value),
        (gate.max_value, "at most", gate.max_value is None or ours.value <= gate.max_value),
    ]
    texts = [f"{'' if passed else 'not '}{word} {bound:g}" for bound, word, passed in bounds if bound is not None]
    passed, champion_value = all(passed for *_, passed in bounds), None
    if gate.compares and champion is not None:
        theirs = champion(gate)
        champion_value = theirs.value
        if champion_value is None:
            problem = f"the champion's {_name(gate)} is unavailable: {theirs.problem}"
            return GateResult(gate, False, problem, (ours.value, None), unavailable=True)
        better, text = _compare(gate, ours, theirs)
        passed, texts = passed and better, [text, *texts]
    reason = f"{_name(gate)} {ours.value:.6g}" + (f" is {' and '.join(texts)}" if texts else "")
    return GateResult(gate, passed, reason, (ours.value, champion_value))


def _compare(gate: Gate, ours: GateMetric, theirs: GateMetric) -> tuple[bool, str]:
    """Return whether the candidate improves enough, or regresses little enough, and that in words."""
    assert ours.value is not None  # noqa: S101  # see `check_gate`
    assert theirs.value is not None  # noqa: S101
    sign, champion = 1 if gate.direction == "higher" else -1, f"the champion's {theirs.value:.6g}"
    improvement, details = sign * (ours.value - theirs.value), ""
    if ours.images and theirs.images:
        try:
            interval = _interval(ours, theirs, gate.confidence or DEFAULT_CONFIDENCE)
        except UserError as error:
            return False, f"not comparable with {champion}: {error}"
        improvement = sign * interval.difference
        if gate.confidence is not None:
            improvement = interval.low if sign > 0 else -interval.high  # the worst within the interval
        details = (
            f" (difference {interval.difference:.4g}, {100 * interval.confidence:g}% interval "
            f"{interval.low:.4g} to {interval.high:.4g}, {interval.images} images)"
        )
    elif gate.confidence is not None:
        return False, f"not comparable with {champion}: there are no values for each image"
    tolerance = rounding_tolerance(ours.computed, theirs.computed) * max(abs(ours.value), abs(theirs.value))
    if ours.computed and theirs.computed and ours.computed != theirs.computed:
        details += f" (computed {ours.computed}, the champion's {theirs.computed}; rounding tolerance {tolerance:.2g})"
    significantly = "significantly " if gate.confidence else ""
    if gate.min_improvement is not None:
        passed = improvement > gate.min_improvement + tolerance
        by = f" by more than {gate.min_improvement:g}" if gate.min_improvement else ""
        return passed, f"{'' if passed else 'not ' + significantly}{gate.direction} than {champion}{by}{details}"
    regression, worse = gate.max_regression or 0, "lower" if gate.direction == "higher" else "higher"
    passed = improvement >= -regression - tolerance
    word = "not " if passed else "possibly " if gate.confidence else ""
    return passed, f"{word}more than {regression:g} {worse} than {champion}{details}"


def _interval(ours: GateMetric, theirs: GateMetric, confidence: float) -> Interval:
    """Compare on the common images. Raises `UserError` if the candidate lacks values that the champion has."""
    candidate, champion = (_finite(metric) for metric in (ours, theirs))
    lost = sorted(champion.keys() - {image for image, value in ours.images.items() if not math.isnan(value)})
    common = sorted(champion.keys() & candidate.keys())
    if lost and common:
        raise UserError(f"{len(lost)} images have a value for the champion only, such as {lost[0]}")
    return mean_difference(
        [candidate[image] for image in common], [champion[image] for image in common], confidence=confidence
    )


def _finite(metric: GateMetric) -> dict[str, float]:
    return {image: value for image, value in metric.images.items() if math.isfinite(value)}


def _name(gate: Gate) -> str:
    metric = gate.metric.replace("_", " ")
    return metric if gate.benchmark == VALIDATION else f"{metric} on {gate.benchmark}"
