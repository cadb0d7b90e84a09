"""May a candidate replace the champion? Every gate of its stage must hold; every one gives its reason."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from daefr.errors import UserError
from daefr.metrics.bootstrap import Interval, mean_difference
from pipelines.engine.compute_info import ComputeInfo, rounding_tolerance
from pipelines.engine.names import VALIDATION
from pipelines.promote.settings import Gate

DEFAULT_CONFIDENCE = 0.95
"""Of the interval that is told where a gate asks for none."""


@dataclass(frozen=True)
class GateMetric:
    """A metric of a model: its value over all images, that of each image (NaN: undefined), or why there is no value."""

    value: float | None
    problem: str = ""
    images: Mapping[str, float] = field(default_factory=dict)
    computed: ComputeInfo | None = None
    """How, None where that was not recorded."""


MetricSource = Callable[[Gate], GateMetric]
"""Returns the metric of a model that a gate asks for."""


@dataclass(frozen=True)
class Verdict:
    """Whether a gate holds, why in a sentence, and the candidate's and the champion's figure."""

    gate: Gate
    holds: bool
    reason: str
    figures: tuple[float | None, float | None] = (None, None)
    unavailable: bool = False
    """It does not hold because a figure could not be had: another time it may."""


@dataclass(frozen=True)
class Decision:
    """Whether a candidate may become champion, with the verdict of every gate, and anything beside the gates."""

    verdicts: tuple[Verdict, ...] = ()
    refusal: str = ""
    remark: str = ""

    @property
    def promoted(self) -> bool:
        """Whether everything holds."""
        return not self.refusal and all(verdict.holds for verdict in self.verdicts)

    @property
    def reason(self) -> str:
        """All reasons in a line: those that decided come first."""
        ordered = sorted(self.verdicts, key=lambda verdict: verdict.holds)
        return "; ".join(filter(None, [self.refusal, *(verdict.reason for verdict in ordered), self.remark]))

    @property
    def figures(self) -> dict[str, tuple[float | None, float | None]]:
        """The candidate's and the champion's figure by the name of the metric, after that of its benchmark."""
        return {f"{verdict.gate.benchmark}/{verdict.gate.metric}": verdict.figures for verdict in self.verdicts}


def decide(
    gates: tuple[Gate, ...], candidate: MetricSource, champion: MetricSource | None, remark: str = ""
) -> Decision:
    """Judge a candidate by every gate; without a champion, only absolute bounds can turn it down."""
    return Decision(tuple(judge(gate, candidate, champion) for gate in gates), remark=remark)


def judge(gate: Gate, candidate: MetricSource, champion: MetricSource | None) -> Verdict:
    """Judge a candidate by one gate. A figure that is needed and cannot be had fails it."""
    mine = candidate(gate)
    if mine.value is None:
        return Verdict(gate, False, f"{_name(gate)} is unavailable: {mine.problem}", unavailable=True)
    bounds = [
        (gate.min_value, "at least", gate.min_value is None or mine.value >= gate.min_value),
        (gate.max_value, "at most", gate.max_value is None or mine.value <= gate.max_value),
    ]
    texts = [f"{'' if holds else 'not '}{word} {bound:g}" for bound, word, holds in bounds if bound is not None]
    holds, beside = all(holds for *_, holds in bounds), None
    if gate.compares and champion is not None:
        theirs = champion(gate)
        beside = theirs.value
        if beside is None:
            problem = f"the champion's {_name(gate)} is unavailable: {theirs.problem}"
            return Verdict(gate, False, problem, (mine.value, None), unavailable=True)
        better, text = _compare(gate, mine, theirs)
        holds, texts = holds and better, [text, *texts]
    shown = f"{_name(gate)} {mine.value:.6g}"
    reason = f"{shown} is {' and '.join(texts)}" if texts else shown
    return Verdict(gate, holds, reason, (mine.value, beside))


def _compare(gate: Gate, mine: GateMetric, theirs: GateMetric) -> tuple[bool, str]:
    """Tell whether a candidate is better by the minimum, or worse within the tolerance, and say it."""
    assert mine.value is not None  # noqa: S101  # `judge` has looked
    assert theirs.value is not None  # noqa: S101
    sign, champions = 1 if gate.direction == "higher" else -1, f"the champion's {theirs.value:.6g}"
    better_by, sure = sign * (mine.value - theirs.value), ""
    if mine.images and theirs.images:
        try:
            interval = _interval(mine, theirs, gate.confidence or DEFAULT_CONFIDENCE)
        except UserError as error:
            return False, f"not to be compared with {champions}: {error}"
        better_by = sign * interval.difference
        if gate.confidence is not None:
            better_by = interval.low if sign > 0 else -interval.high  # at the least
        sure = (
            f" (difference {interval.difference:.4g}, with {100 * interval.confidence:g}% confidence "
            f"{interval.low:.4g} to {interval.high:.4g}, {interval.images} images)"
        )
    elif gate.confidence is not None:
        return False, f"not to be compared with {champions}: there are no figures of each image"
    allowance = rounding_tolerance(mine.computed, theirs.computed) * max(abs(mine.value), abs(theirs.value))
    if mine.computed and theirs.computed and mine.computed != theirs.computed:
        sure += (
            f" (computed {mine.computed}, the champion's {theirs.computed}: {allowance:.2g} is allowed for rounding)"
        )
    if gate.min_improvement is not None:
        holds = better_by > gate.min_improvement + allowance
        by = f" by more than {gate.min_improvement:g}" if gate.min_improvement else ""
        word = "" if holds else "not surely " if gate.confidence else "not "
        return holds, f"{word}{gate.direction} than {champions}{by}{sure}"
    tolerance, worse = gate.max_regression or 0, "lower" if gate.direction == "higher" else "higher"
    holds = better_by >= -tolerance - allowance
    word = "no " if holds else "perhaps " if gate.confidence else ""
    return holds, f"{word}more than {tolerance:g} {worse} than {champions}{sure}"


def _interval(mine: GateMetric, theirs: GateMetric, confidence: float) -> Interval:
    """Compare on the images that both have; raises `UserError` where the candidate lacks what the champion has."""
    ours, others = (_measured(figure) for figure in (mine, theirs))
    lost = sorted(others.keys() - {image for image, value in mine.images.items() if not math.isnan(value)})
    common = sorted(others.keys() & ours.keys())
    if lost and common:
        raise UserError(f"it has no figure of {len(lost)} images of which the champion has one, such as {lost[0]}")
    return mean_difference(
        [ours[image] for image in common], [others[image] for image in common], confidence=confidence
    )


def _measured(figure: GateMetric) -> dict[str, float]:
    return {image: value for image, value in figure.images.items() if math.isfinite(value)}


def _name(gate: Gate) -> str:
    figure = gate.metric.replace("_", " ")
    return figure if gate.benchmark == VALIDATION else f"{figure} on {gate.benchmark}"
