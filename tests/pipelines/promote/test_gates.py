"""Gates are data, and every one of them says why it holds or fails."""

import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from pydantic import ValidationError

from daefr.data.manifest import DatasetManifest, Shard, write_dataset_manifest
from daefr.errors import UserError
from daefr.settings.training import AutoencoderTraining, RestorationTraining
from pipelines.config import load_config
from pipelines.engine.compute_info import ComputeInfo
from pipelines.engine.validation import comparable_digest
from pipelines.promote.gates import Decision, GateMetric, decide
from pipelines.promote.settings import LOWER_LOSS, Gate
from tests.e2e.command import TINY


def _decide(gate: Gate, candidate: GateMetric | float, champion: GateMetric | float | None) -> Decision:
    def figure(of: GateMetric | float) -> GateMetric:
        return of if isinstance(of, GateMetric) else GateMetric(of)

    return decide((gate,), lambda _: figure(candidate), None if champion is None else lambda _: figure(champion))


def _images(*values: float) -> GateMetric:
    return GateMetric(sum(values) / len(values), images={str(number): value for number, value in enumerate(values)})


def test_by_default_only_a_lower_validation_loss_replaces_the_champion() -> None:
    assert _decide(LOWER_LOSS, 0.5, None).promoted
    better, equal, worse = (_decide(LOWER_LOSS, loss, 0.5) for loss in (0.4, 0.5, 0.6))
    assert (better.promoted, equal.promoted, worse.promoted) == (True, False, False)
    assert better.reason == "validation loss 0.4 is lower than the champion's 0.5"
    assert worse.reason == "validation loss 0.6 is not lower than the champion's 0.5"


def test_what_another_machine_rounds_otherwise_is_equal() -> None:
    assert not _decide(LOWER_LOSS, 0.5930081, 0.5930083).promoted
    assert _decide(LOWER_LOSS, 0.5929, 0.5930083).promoted
    assert _decide(Gate(metric="ida", direction="lower", max_regression=0), 0.5930083, 0.5930081).promoted


@pytest.mark.parametrize(
    ("mine", "theirs", "better_by", "holds"),
    [
        (ComputeInfo(device="cpu"), ComputeInfo(device="cpu"), 5e-5, True),
        (ComputeInfo(device="cpu"), None, 5e-5, True),
        (ComputeInfo(device="NVIDIA H100"), ComputeInfo(device="cpu"), 5e-5, False),
        (ComputeInfo(device="NVIDIA H100"), ComputeInfo(device="cpu"), 5e-4, True),
        (ComputeInfo(device="NVIDIA H100", precision="bfloat16"), ComputeInfo(device="NVIDIA H100"), 5e-3, False),
        (ComputeInfo(device="NVIDIA H100", precision="bfloat16"), ComputeInfo(device="NVIDIA H100"), 5e-2, True),
    ],
)
def test_what_was_computed_otherwise_must_differ_by_more_and_says_so(
    mine: ComputeInfo, theirs: ComputeInfo | None, better_by: float, holds: bool
) -> None:
    candidate, champion = GateMetric(1 - better_by, computed=mine), GateMetric(1.0, computed=theirs)
    decision = _decide(LOWER_LOSS, candidate, champion)
    assert decision.promoted == holds
    for computed in (mine, theirs):
        assert (str(computed) in decision.reason) == (theirs is not None and mine != theirs)


@pytest.mark.parametrize(
    ("gate", "candidate", "champion", "holds", "says"),
    [
        ({"direction": "lower", "min_improvement": 0.1}, 0.2, 0.35, True, "by more than 0.1"),
        ({"direction": "lower", "min_improvement": 0.1}, 0.3, 0.35, False, "not lower than the champion's 0.35"),
        ({"direction": "higher", "min_improvement": 0}, 0.3, 0.2, True, "higher than the champion's 0.2"),
        ({"direction": "lower", "max_regression": 0.1}, 0.4, 0.35, True, "no more than 0.1 higher than"),
        ({"direction": "lower", "max_regression": 0.1}, 0.5, 0.35, False, "is more than 0.1 higher"),
        ({"direction": "higher", "max_regression": 0.1}, 0.2, 0.35, False, "is more than 0.1 lower"),
        ({"max_value": 0.2}, 0.2, 9, True, "at most 0.2"),
        ({"max_value": 0.2}, 0.3, None, False, "not at most 0.2"),
        ({"min_value": 1}, 0.3, None, False, "not at least 1"),
        ({"min_value": 0, "direction": "lower", "min_improvement": 0}, -1, 3, False, "the champion's 3 and not at"),
        ({"direction": "lower", "max_regression": 9}, math.nan, 1, False, "nan"),
    ],
)  # fmt: skip
def test_a_gate_compares_or_bounds(
    gate: dict[str, Any], candidate: float, champion: float | None, holds: bool, says: str
) -> None:
    decision = _decide(Gate(metric="lpips", **gate), candidate, champion)
    assert decision.promoted == holds
    assert says in decision.reason


def test_with_confidence_the_interval_decides_not_the_mean() -> None:
    gate = Gate(metric="lpips", direction="lower", min_improvement=0.002, confidence=0.95)
    champion = _images(*[0.2 + 0.01 * number for number in range(20)])
    surely = _images(*[value - 0.004 - 0.001 * (number % 2) for number, value in enumerate(champion.images.values())])
    once = _images(*[value - 0.2 * (number == "7") for number, value in champion.images.items()])
    assert _decide(gate, surely, champion).promoted
    doubtful = _decide(gate, once, champion)
    assert not doubtful.promoted
    assert "is not surely lower than the champion's" in doubtful.reason
    assert "difference -0.01, with 95% confidence" in doubtful.reason
    assert "20 images" in doubtful.reason
    tolerant = Gate(metric="ida", direction="lower", max_regression=0.001, confidence=0.95)
    assert _decide(tolerant, surely, champion).promoted
    assert not _decide(tolerant, champion, surely).promoted


def test_images_that_only_one_of_both_has_are_not_compared() -> None:
    gate = Gate(metric="ida", direction="lower", min_improvement=0, confidence=0.9)
    ours, theirs = GateMetric(1, images={"a": 1, "b": 1}), GateMetric(2, images={"c": 2})
    decision = _decide(gate, ours, theirs)
    assert not decision.promoted
    assert "no image of which both have the figure" in decision.reason


def test_a_candidate_that_lost_images_is_not_compared_without_them() -> None:
    gate = Gate(metric="psnr", direction="higher", min_improvement=0)
    champion = _images(20, 21, 22)
    decision = _decide(gate, GateMetric(30, images={"1": 29.0, "2": 31.0, "0": math.nan}), champion)
    assert not decision.promoted
    assert "it has no figure of 1 images of which the champion has one, such as 0" in decision.reason
    more = GateMetric(19, images={**champion.images, "3": 10.0})
    assert "not higher" in _decide(gate, more, champion).reason, "equal on the images that both have"


def test_what_is_unavailable_fails_the_gate() -> None:
    gate = Gate(metric="lpips", direction="lower", min_improvement=0)
    missing = GateMetric(None, "vgg16 has to be downloaded")
    for champion in (None, 0.3):
        decision = _decide(gate, missing, champion)
        assert not decision.promoted
        assert decision.reason == "lpips is unavailable: vgg16 has to be downloaded"
    assert _decide(gate, 0.3, missing).reason == "the champion's lpips is unavailable: vgg16 has to be downloaded"


def test_every_gate_has_to_hold_and_those_that_fail_are_told_first() -> None:
    gates = (LOWER_LOSS, Gate(metric="dead_codes", max_value=0.2))
    figures = {"validation_loss": 0.1, "dead_codes": 0.5}
    decision = decide(gates, lambda gate: GateMetric(figures[gate.metric]), lambda _: GateMetric(0.3))
    assert not decision.promoted
    assert decision.reason.startswith("dead codes 0.5 is not at most 0.2; validation loss")
    assert decision.figures == {"validation/validation_loss": (0.1, 0.3), "validation/dead_codes": (0.5, None)}


@pytest.mark.parametrize(
    ("gate", "says"),
    [
        ({"metric": "lpips"}, "requires min_improvement, max_regression"),
        ({"metric": "lpips", "direction": "lower"}, "requires min_improvement, max_regression"),
        ({"metric": "lpips", "min_improvement": 1}, "requires direction"),
        ({"metric": "lpips", "direction": "lower", "min_improvement": 1, "max_regression": 1}, "not both"),
        ({"metric": "lpips", "max_value": 1, "confidence": 0.9}, "confidence requires min_improvement"),
        ({"metric": "fid", "direction": "lower", "min_improvement": 1, "confidence": 0.9}, "one value for all images"),
        ({"metric": "validation_loss", "direction": "lower", "min_improvement": 1, "benchmark": "lfw"}, "on lfw"),
    ],
)  # fmt: skip
def test_a_gate_that_means_nothing_is_refused(gate: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Gate(**gate)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("promotion.hq_codebook.gates=[{metric: lpips, max_value: 1}]", "choose one of validation_loss"),
        ("promotion.restoration.gates=[{metric: lpips, max_valeu: 1}]", "gates.0.max_valeu: did you mean max_value"),
        ("promotion.restoration.gates=[{metric: psnr, max_value: much}]", "gates.0.max_value: .*much"),
        ("promotion.restoration.gates=[{metric: psnr, max_value: 1, benchmark: lfw}]", "benchmark .lfw.; choose one"),
        ("promotion.restoration.gates=[{metric: niqe, max_value: 1}]", "niqe is not among evaluation.metrics"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_configuration_is_named(override: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_config(TINY, [override])


def _manifest(sha256: str) -> DatasetManifest:
    shard = Shard(name="a.tar", bytes=1, sha256=sha256, samples=1)
    with TemporaryDirectory() as folder:
        return write_dataset_manifest(
            Path(folder), resolution=32, recipes={}, variants={}, seed=0, train=[], validation=[shard]
        )


def test_losses_compare_on_the_same_images_and_weights_only() -> None:
    training = RestorationTraining(steps=1)
    same = comparable_digest(_manifest("a"), training)
    assert same == comparable_digest(_manifest("a"), training.model_copy(update={"steps": 9}))
    assert same != comparable_digest(_manifest("b"), training)
    assert same != comparable_digest(_manifest("a"), training.model_copy(update={"feature_weight": 1.0}))
    assert same != comparable_digest(_manifest("a"), AutoencoderTraining(steps=1))
