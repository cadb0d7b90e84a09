"""The benchmark: that both sides compute the same, and what the command prints."""

import json

import pytest
import torch
from torch import Tensor

from daefr.errors import UserError
from daefr.profiling import CASES, Case, CaseName, random_images
from daefr.settings.network import AutoencoderConfig, DiscriminatorConfig, NetworkConfig, PredictorConfig
from daefr.stages import AutoencoderStage, RestorationStage
from daefr.training.optimization import Optimization
from daefr.training.state import TrainingState
from infra.benchmarks.__main__ import main
from infra.benchmarks.measure import CaseCost, measure_sides
from infra.benchmarks.reference import ReferenceOptimization, build_side, restore_as_reference
from infra.benchmarks.worker import count_side

# VGG16 halves the sides four times
NETWORK = NetworkConfig(
    autoencoder=AutoencoderConfig(
        resolution=32,
        channels=8,
        multipliers=(1, 2, 2),
        blocks=1,
        attention_resolutions=(8,),
        groups=4,
        latent_channels=8,
        codes=64,
        code_channels=8,
    ),
    predictor=PredictorConfig(width=16, layers=2, heads=2, mlp=24, fusion_heads=2),
    discriminator=DiscriminatorConfig(channels=8, layers=2),
)
TRAINED: tuple[CaseName, ...] = ("hq_codebook", "association", "restoration")


def _step(case: Case, *, ours: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The scalars of a first step that moves nothing, and every gradient of it."""
    stage, training = build_side(case, "ours" if ours else "reference")
    stage.train()
    if isinstance(stage, AutoencoderStage) and stage.perceptual is not None:
        stage.perceptual.eval()  # the reference's drops differences at random while it trains
    still = TrainingState(stage, training.model_copy(update={"base_learning_rate": 1e-30}))
    optimization = Optimization(still, torch.device("cpu")) if ours else ReferenceOptimization(still)
    _, terms = optimization.step(random_images(32, case.batch))
    return terms, {name: parameter.grad for name, parameter in stage.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("name", TRAINED)
def test_both_sides_compute_the_same_losses_and_gradients(name: CaseName) -> None:
    case = Case(name, NETWORK, batch=2)
    (terms, gradients), (expected_terms, expected_gradients) = _step(case, ours=True), _step(case, ours=False)
    own = {"gradient_norm", "discriminator_gradient_norm"}
    assert terms.keys() - own == expected_terms.keys()
    assert {term: terms[term].item() for term in expected_terms} == pytest.approx(
        {term: value.item() for term, value in expected_terms.items()}, rel=1e-4, abs=1e-6
    )
    assert gradients.keys() == expected_gradients.keys()
    largest = max(gradient.abs().max().item() for gradient in gradients.values())
    for parameter, gradient in gradients.items():
        # by processor and number of threads, rounding alone makes up to 6e-5 of the largest
        torch.testing.assert_close(gradient, expected_gradients[parameter], rtol=1e-3, atol=3e-4 * largest)


def test_both_sides_restore_the_same() -> None:
    case = Case("restore", NETWORK, batch=2)
    (ours, _), (reference, _) = build_side(case, "ours"), build_side(case, "reference")
    assert isinstance(ours, RestorationStage)
    assert isinstance(reference, RestorationStage)
    images = random_images(32, 2)["lq"]
    restored = ours.eval().generator.restore(images).image
    torch.testing.assert_close(restored, restore_as_reference(reference.eval().generator, images), rtol=1e-4, atol=1e-5)


def test_the_reference_needs_more_operations() -> None:
    for name in ("association", "restore"):
        case = Case(name, NETWORK, batch=2)  # type: ignore[arg-type]
        assert 0 < count_side(case, "ours") < count_side(case, "reference")


def test_the_command_measures(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--channels", "32", "--restore-resolution", "16", "--restore-multipliers", "1,1", "--restore-batch", "2"]
    assert main(["training", "--json", "--stages", "restore", "--repetitions", "2", "--device", "cpu", *sizes]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed.keys() == {"restore"}
    measured = CaseCost(**printed["restore"])
    assert measured.reference_seconds
    assert measured.reference_peak_bytes
    assert measured.ratio == pytest.approx(measured.seconds / measured.reference_seconds)
    assert measured.samples_per_second == pytest.approx(2 / measured.seconds)
    assert measured.operations_per_second > 0
    assert measured.fraction_of_matrix_rate > 0
    assert min(measured.peak_bytes, measured.reference_peak_bytes) > 2**25, "a whole process with its libraries"


def test_the_reference_can_be_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--channels", "32", "--restore-resolution", "16", "--restore-multipliers", "1,1"]
    alone = ["training", "--no-as-reference", "--stages", "restore", "--repetitions", "1", "--device", "cpu"]
    assert main([*alone, *sizes]) == 0
    name, seconds, reference, ratio, *_, peak, reference_peak, _, _ = capsys.readouterr().out.splitlines()[-1].split()
    assert (name, reference, ratio, reference_peak) == ("restore", "-", "-", "-")
    assert float(seconds) > 0
    assert float(peak) > 0


def test_the_command_prints_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = CaseCost(1.5, 3, 0.5, 2, 1, 2**30, 2**31, 2e9, 0.25)
    monkeypatch.setattr("infra.benchmarks.training.measure_sides", lambda *_: metrics)
    assert main(["training", "--device", "cpu"]) == 0
    rate, titles, *rows = capsys.readouterr().out.splitlines()
    assert "GFLOP/s" in rate
    assert "peak MB" in titles
    assert [row.split() for row in rows] == [
        [name, "1.500", "3.000", "0.50", "2.000", "1024", "2048", "2", "25%"] for name in CASES
    ]


@pytest.mark.parametrize(("options", "problem"), [
    (["--channels", "40"], "groups is 32, which does not divide"),
    (["--resolution", "100"], "must be a multiple of 16"),
    (["--device", "toaster"], "--device toaster is not available"),
])  # fmt: skip
def test_sizes_that_do_not_fit_are_refused(
    capsys: pytest.CaptureFixture[str], options: list[str], problem: str
) -> None:
    assert main(["training", "--stages", "hq_codebook", *options]) == 2
    message = capsys.readouterr().err
    assert problem in message
    assert message.count("\n") == 1


def test_a_side_that_cannot_be_run_is_an_error() -> None:
    with pytest.raises(UserError, match="restore, ours"):
        measure_sides(Case("restore", NETWORK, batch=1, device="meta"), repetitions=1, matrix_rate=1e9)


def test_only_the_reference_drops_differences() -> None:
    case = Case("hq_codebook", NETWORK, batch=2)
    images = random_images(32, 2)
    for side, steady in (("ours", True), ("reference", False)):
        stage, _ = build_side(case, side)
        assert isinstance(stage.train(), AutoencoderStage)
        assert stage.perceptual is not None
        first, second = (stage.perceptual(images["lq"], images["hq"]) for _ in range(2))
        assert torch.equal(first, second) == steady
