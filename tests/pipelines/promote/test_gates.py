"""Gates: bounds, comparisons, confidence, and their configuration."""

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
    def metric(of: GateMetric | float) -> GateMetric:
        return of if isinstance(of, GateMetric) else GateMetric(of)

    return decide((gate,), lambda _: metric(candidate), None if champion is None else lambda _: metric(champion))


def _images(*values: float) -> GateMetric:
    return GateMetric(sum(values) / len(values), images={str(number): value for number, value in enumerate(values)})


def test_by_default_only_a_lower_validation_loss_replaces_the_champion() -> None:
    assert _decide(LOWER_LOSS, 0.5, None).promoted
    better, equal, worse = (_decide(LOWER_LOSS, loss, 0.5) for loss in (0.4, 0.5, 0.6))
    assert (better.promoted, equal.promoted, worse.promoted) == (True, False, False)
    assert better.metrics == {"validation/validation_loss": (0.4, 0.5)}
    assert "0.4" in better.reason and "0.5" in better.reason


def test_differences_within_rounding_are_equal() -> None:
    assert not _decide(LOWER_LOSS, 0.5930081, 0.5930083).promoted
    assert _decide(LOWER_LOSS, 0.5929, 0.5930083).promoted
    assert _decide(Gate(metric="ida", direction="lower", max_regression=0), 0.5930083, 0.5930081).promoted


@pytest.mark.parametrize(
    ("ours", "theirs", "better_by", "passed"),
    [
        (ComputeInfo(device="cpu"), ComputeInfo(device="cpu"), 5e-5, True),
        (ComputeInfo(device="cpu"), None, 5e-5, True),
        (ComputeInfo(device="NVIDIA H100"), ComputeInfo(device="cpu"), 5e-5, False),
        (ComputeInfo(device="NVIDIA H100"), ComputeInfo(device="cpu"), 5e-4, True),
        (ComputeInfo(device="NVIDIA H100", precision="bfloat16"), ComputeInfo(device="NVIDIA H100"), 5e-3, False),
        (ComputeInfo(device="NVIDIA H100", precision="bfloat16"), ComputeInfo(device="NVIDIA H100"), 5e-2, True),
    ],
)
def test_rounding_tolerance_depends_on_device_and_precision(
    ours: ComputeInfo, theirs: ComputeInfo | None, better_by: float, passed: bool
) -> None:
    candidate, champion = GateMetric(1 - better_by, computed=ours), GateMetric(1.0, computed=theirs)
    decision = _decide(LOWER_LOSS, candidate, champion)
    assert decision.promoted == passed
    for computed in (ours, theirs):
        assert (str(computed) in decision.reason) == (theirs is not None and ours != theirs)


@pytest.mark.parametrize(
    ("gate", "candidate", "champion", "passed"),
    [
        ({"direction": "lower", "min_improvement": 0.1}, 0.2, 0.35, True),
        ({"direction": "lower", "min_improvement": 0.1}, 0.3, 0.35, False),
        ({"direction": "higher", "min_improvement": 0}, 0.3, 0.2, True),
        ({"direction": "lower", "max_regression": 0.1}, 0.4, 0.35, True),
        ({"direction": "lower", "max_regression": 0.1}, 0.5, 0.35, False),
        ({"direction": "higher", "max_regression": 0.1}, 0.2, 0.35, False),
        ({"max_value": 0.2}, 0.2, 9, True),
        ({"max_value": 0.2}, 0.3, None, False),
        ({"min_value": 1}, 0.3, None, False),
        ({"min_value": 0, "direction": "lower", "min_improvement": 0}, -1, 3, False),
        ({"direction": "lower", "max_regression": 9}, math.nan, 1, False),
    ],
)
def test_a_gate_compares_or_bounds(
    gate: dict[str, Any], candidate: float, champion: float | None, passed: bool
) -> None:
    decision = _decide(Gate(metric="lpips", **gate), candidate, champion)
    assert decision.promoted == passed
    assert f"{candidate:g}" in decision.reason
    # the champion matters only if the gate compares
    assert ("direction" in gate) == (champion is not None and f"{champion:g}" in decision.reason)


def test_with_confidence_the_interval_decides_not_the_mean() -> None:
    gate = Gate(metric="lpips", direction="lower", min_improvement=0.002, confidence=0.95)
    champion = _images(*[0.2 + 0.01 * number for number in range(20)])
    better = _images(*[value - 0.004 - 0.001 * (number % 2) for number, value in enumerate(champion.images.values())])
    outlier = _images(*[value - 0.2 * (number == "7") for number, value in champion.images.items()])
    assert _decide(gate, better, champion).promoted
    insignificant = _decide(gate, outlier, champion)
    assert not insignificant.promoted
    for part in ("-0.01", "95%", "20 images"):
        assert part in insignificant.reason
    tolerant = Gate(metric="ida", direction="lower", max_regression=0.001, confidence=0.95)
    assert _decide(tolerant, better, champion).promoted
    assert not _decide(tolerant, champion, better).promoted


def test_models_without_common_images_are_not_compared() -> None:
    gate = Gate(metric="ida", direction="lower", min_improvement=0, confidence=0.9)
    ours, theirs = GateMetric(1, images={"a": 1, "b": 1}), GateMetric(2, images={"c": 2})
    assert not _decide(gate, ours, theirs).promoted


def test_a_candidate_without_some_of_the_champions_images_fails() -> None:
    gate = Gate(metric="psnr", direction="higher", min_improvement=0)
    champion = _images(20, 21, 22)
    assert not _decide(gate, GateMetric(30, images={"1": 29.0, "2": 31.0, "0": math.nan}), champion).promoted
    more = GateMetric(19, images={**champion.images, "3": 10.0})
    assert not _decide(gate, more, champion).promoted, "equal on the common images"
    assert _decide(Gate(metric="psnr", direction="higher", max_regression=0), more, champion).promoted


def test_an_unavailable_metric_fails_the_gate() -> None:
    gate = Gate(metric="lpips", direction="lower", min_improvement=0)
    missing = GateMetric(None, "vgg16 has to be downloaded")
    for candidate, champion in ((missing, None), (missing, 0.3), (0.3, missing)):
        decision = _decide(gate, candidate, champion)
        assert not decision.promoted
        assert decision.results[0].unavailable
        assert missing.problem in decision.reason


def test_every_gate_must_pass_and_failed_ones_come_first() -> None:
    gates = (LOWER_LOSS, Gate(metric="dead_codes", max_value=0.2))
    metrics = {"validation_loss": 0.1, "dead_codes": 0.5}
    decision = decide(gates, lambda gate: GateMetric(metrics[gate.metric]), lambda _: GateMetric(0.3))
    assert not decision.promoted
    assert decision.reason.index("dead codes") < decision.reason.index("validation loss")
    assert decision.metrics == {"validation/validation_loss": (0.1, 0.3), "validation/dead_codes": (0.5, None)}


@pytest.mark.parametrize(
    ("gate", "key"),
    [
        ({"metric": "lpips"}, "max_value"),
        ({"metric": "lpips", "direction": "lower"}, "max_value"),
        ({"metric": "lpips", "min_improvement": 1}, "direction"),
        ({"metric": "lpips", "direction": "lower", "min_improvement": 1, "max_regression": 1}, "max_regression"),
        ({"metric": "lpips", "max_value": 1, "confidence": 0.9}, "confidence"),
        ({"metric": "fid", "direction": "lower", "min_improvement": 1, "confidence": 0.9}, "confidence"),
        ({"metric": "validation_loss", "direction": "lower", "min_improvement": 1, "benchmark": "lfw"}, "lfw"),
    ],
)
def test_inconsistent_gates_are_rejected(gate: dict[str, Any], key: str) -> None:
    with pytest.raises(ValidationError, match=key):
        Gate(**gate)


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("promotion.hq_codebook.gates=[{metric: lpips, max_value: 1}]", "validation_loss"),
        ("promotion.restoration.gates=[{metric: lpips, max_valeu: 1}]", "gates.0.max_valeu: did you mean max_value"),
        ("promotion.restoration.gates=[{metric: psnr, max_value: much}]", "gates.0.max_value: .*much"),
        ("promotion.restoration.gates=[{metric: psnr, max_value: 1, benchmark: lfw}]", "'lfw'"),
        ("promotion.restoration.gates=[{metric: niqe, max_value: 1}]", "niqe.*evaluation.metrics"),
    ],
)
def test_errors_in_the_configuration_of_gates_name_the_key(override: str, names: str) -> None:
    with pytest.raises(UserError, match=names):
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
