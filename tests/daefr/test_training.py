"""Training: exact continuation, several ranks, the learning rate, what is reported, and what stops it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from daefr.checkpoint import Checkpoint
from daefr.data.dataset import FaceDataset
from daefr.data.manifest import NAME
from daefr.errors import UserError
from daefr.images import Image
from daefr.settings.base import StageName
from daefr.settings.training import AutoencoderTraining, RestorationTraining, TrainingConfig
from daefr.stages import STAGES, AutoencoderStage, RestorationStage, Stage, stage_from_checkpoint
from daefr.training.errors import NonFiniteLossError
from daefr.training.loop import train
from daefr.training.reporter import FolderReporter, Save
from daefr.training.validation import validate
from tests.daefr import tiny, together

CPU = torch.device("cpu")
BRANCHES = {"hq_codebook": [""], "lq_codebook": [""], "association": ["hq_", "lq_"], "restoration": [""]}


class LostMachineError(Exception):
    """Ends a training as a lost machine would."""


class Listener(FolderReporter):
    """Also keeps the pictures, and calls back at every metrics report of training."""

    def __init__(self, folder: Path, hook: Callable[[int], None] | None = None) -> None:
        super().__init__(folder)
        self.images: list[tuple[int, str, Image]] = []
        self._hook = hook

    def metrics(self, step: int, values: dict[str, float]) -> None:
        super().metrics(step, values)
        if self._hook and "loss" in values:
            self._hook(step)

    def image(self, step: int, name: str, image: Image) -> None:
        self.images.append((step, name, image))


class InterruptedReporter(FolderReporter):
    """Interrupts the training right after its first checkpoint."""

    def checkpoint(self, step: int, save: Save) -> None:
        super().checkpoint(step, save)
        raise LostMachineError


def _newest(reporter: FolderReporter) -> Checkpoint:
    found = reporter.resume()
    assert found is not None
    return found


def _assert_bit_equal(first: Any, second: Any, where: str = "") -> None:
    assert type(first) is type(second), where
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for name in first:
            _assert_bit_equal(first[name], second[name], f"{where}/{name}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for number, (one, other) in enumerate(zip(first, second, strict=True)):
            _assert_bit_equal(one, other, f"{where}/{number}")
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    else:
        assert first == second, where


def _assert_same_training(first: Checkpoint, second: Checkpoint) -> None:
    _assert_bit_equal(first.tensors(), second.tensors(), "weights")
    # all but the best validation, which depends on how often there is one
    mine, theirs = ({**each.trainer(), "best_loss": None} for each in (first, second))
    _assert_bit_equal(mine, theirs, "trainer")


@pytest.fixture(scope="module")
def straight(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[StageName, Listener]:
    """Each stage trained for 5 steps in one go."""
    reporters = {}
    for name in STAGES:
        reporters[name] = Listener(tmp_path_factory.mktemp(name))
        train(tiny.build(name), tiny.settings(name), dataset, reporters[name])
    return reporters


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("stop", [1, 3])
def test_a_continued_training_is_the_uninterrupted_one(
    dataset: Path, tmp_path: Path, straight: dict[StageName, Listener], name: StageName, stop: int
) -> None:
    first = InterruptedReporter(tmp_path)
    settings = tiny.settings(name, checkpoint_every_n_steps=stop)
    with pytest.raises(LostMachineError):
        train(tiny.build(name), settings, dataset, first)
    stopped = _newest(first)
    assert stopped.trainer()["step"] == stop

    second = FolderReporter(tmp_path)
    # other fresh weights and other random numbers, as in a process of its own
    torch.manual_seed(stop)
    train(tiny.build(name, seed=5), tiny.settings(name), dataset, second, resume=stopped)
    assert [step for step, values in second.history if "loss" in values] == list(range(stop + 1, 6))
    _assert_same_training(_newest(second), _newest(straight[name]))


@pytest.mark.parametrize("changes", [
    {"adversarial": {"weight": 0}},
    {"codebook": {"kmeans_init": True}},
    {"codebook": {"reset_every_n_steps": 2}},
])  # fmt: skip
def test_what_the_straight_training_exercises_has_an_effect(
    dataset: Path, tmp_path: Path, straight: dict[StageName, Listener], changes: dict[str, Any]
) -> None:
    """What makes the equality above worth something."""
    reporter = FolderReporter(tmp_path)
    train(tiny.build("hq_codebook", **changes), tiny.settings("hq_codebook", **changes), dataset, reporter)
    assert not _equal(_newest(reporter), _newest(straight["hq_codebook"]))


def test_the_seed_decides_what_is_seen(dataset: Path, tmp_path: Path, straight: dict[StageName, Listener]) -> None:
    reporter = FolderReporter(tmp_path)
    train(tiny.build("restoration"), tiny.settings("restoration"), dataset, reporter, seed=1)
    assert not _equal(_newest(reporter), _newest(straight["restoration"]))


def _last_validation(reporter: FolderReporter) -> tuple[int, dict[str, float]]:
    return [told for told in reporter.history if "validation_loss" in told[1]][-1]


def _equal(first: Checkpoint, second: Checkpoint) -> bool:
    mine, theirs = first.tensors(), second.tensors()
    return all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_a_finished_training_is_only_measured_again(
    dataset: Path, straight: dict[StageName, Listener], tmp_path: Path
) -> None:
    finished = _newest(straight["hq_codebook"])
    reporter = FolderReporter(tmp_path)
    stage = tiny.build("hq_codebook", seed=5)
    measured = train(stage, tiny.settings("hq_codebook"), dataset, reporter, resume=finished)
    assert measured == _last_validation(straight["hq_codebook"])[1]
    assert reporter.resume() is None
    _assert_bit_equal(stage.weights(), finished.tensors())


def test_a_checkpoint_without_a_training_cannot_be_continued(
    dataset: Path, tmp_path: Path, checkpoints: dict[StageName, Checkpoint]
) -> None:
    with pytest.raises(UserError, match=r"trainer/state\.pt"):
        train(
            tiny.build("restoration"),
            tiny.settings("restoration"),
            dataset,
            FolderReporter(tmp_path),
            resume=checkpoints["restoration"],
        )


@pytest.mark.parametrize("other", ["lq_codebook", "association", "restoration"])
def test_the_checkpoint_of_another_stage_cannot_be_continued(
    dataset: Path, tmp_path: Path, straight: dict[StageName, Listener], other: StageName
) -> None:
    resume = _newest(straight[other])
    with pytest.raises(UserError, match=rf"{resume.path}.*hq_codebook"):
        train(tiny.build("hq_codebook"), tiny.settings("hq_codebook"), dataset, FolderReporter(tmp_path), resume=resume)


def test_a_dataset_of_another_resolution_is_rejected(dataset: Path, tmp_path: Path) -> None:
    manifest = json.loads((dataset / NAME).read_text()) | {"resolution": 512}
    shutil.copytree(dataset, tmp_path, dirs_exist_ok=True)
    (tmp_path / NAME).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"hq_codebook.*16.*512"):
        train(tiny.build("hq_codebook"), tiny.settings("hq_codebook"), tmp_path, FolderReporter(tmp_path))


def test_the_released_learning_rates() -> None:
    released = AutoencoderTraining(steps=1_000_000, milestones=(400_000, 800_000))
    expected = {0: 1.44e-4, 399_999: 1.44e-4, 400_000: 1.44e-5, 799_999: 1.44e-5, 800_000: 1.44e-6, 999_999: 1.44e-6}
    assert {step: released.learning_rate_at(step) for step in expected} == pytest.approx(expected)
    assert RestorationTraining(steps=1, global_batch_size=8).learning_rate == pytest.approx(3.6e-5)
    assert released.betas == (0.5, 0.9)


@pytest.mark.parametrize("name", STAGES)
def test_the_learning_rate_follows_the_milestones(straight: dict[StageName, Listener], name: StageName) -> None:
    reported = {step: values["learning_rate"] for step, values in straight[name].history if "loss" in values}
    assert reported == pytest.approx({1: 2e-3, 2: 2e-3, 3: 2e-3, 4: 2e-3, 5: 2e-4})


@pytest.mark.parametrize("name", STAGES)
def test_the_learning_rate_is_what_moves_the_weights(dataset: Path, tmp_path: Path, name: StageName) -> None:
    ends = []
    for steps in (2, 5):
        remedies = {} if name == "restoration" else {"codebook": {}}
        stage = tiny.build(name, **remedies)
        settings = tiny.settings(name, steps=steps, milestones=(2,), gamma=1e-12, **remedies)
        train(stage, settings, dataset, FolderReporter(tmp_path / str(steps)))
        ends.append(dict(stage.named_parameters()))
    torch.testing.assert_close(*ends, rtol=0, atol=1e-9)
    # Adam's first step moves a weight by the learning rate
    fresh = dict(tiny.build(name).named_parameters())
    moved = max((ends[0][parameter] - fresh[parameter]).abs().max().item() for parameter in fresh)
    assert moved > 1e-3


@pytest.mark.parametrize("name", STAGES)
def test_what_training_reports(straight: dict[StageName, Listener], name: StageName) -> None:
    steps = [values for _, values in straight[name].history if "loss" in values]
    assert len(steps) == 5
    for values in steps:
        assert {"loss", "learning_rate", "samples_per_second", "gradient_norm"} <= values.keys()
        assert all(torch.isfinite(torch.tensor(value)) for value in values.values())
        assert values["samples_per_second"] > 0
        assert values["gradient_norm"] > 0
        for branch in BRANCHES[name]:
            assert 1 <= values[f"{branch}codebook_perplexity"] <= tiny.CODES
            assert 0 <= values[f"{branch}dead_codes"] < 1
        assert ("association_accuracy" in values) == (name == "association")
        assert 0 <= values.get("association_accuracy", 0) <= 1
    # the discriminator starts at the second step
    seen = ["discriminator_gradient_norm" in values for values in steps]
    assert seen == ([False] * 5 if name == "restoration" else [False, True, True, True, True])


@pytest.mark.parametrize("name", STAGES)
def test_what_validation_reports(straight: dict[StageName, Listener], name: StageName) -> None:
    reporter = straight[name]
    step, measured = _last_validation(reporter)
    assert step == 5
    assert all(metric.startswith("validation_") for metric in measured)
    assert measured["validation_loss"] > 0
    for branch in BRANCHES[name]:
        assert 1 <= measured[f"validation_{branch}codebook_perplexity"] <= tiny.CODES
        assert 0 <= measured[f"validation_{branch}dead_codes"] < 1
    assert ("validation_association_accuracy" in measured) == (name == "association")
    (step, title, image), codebook = reporter.images
    assert (step, title) == (5, name)
    assert codebook[:2] == (5, f"{name}_codebook")
    # a column for each of what is shown, a row for each face
    assert image.shape[0] % tiny.SIDE == image.shape[1] % tiny.SIDE == 0
    assert image.std() > 0


def test_reports_are_averages_over_their_window(dataset: Path, tmp_path: Path) -> None:
    reporters = {}
    for every in (1, 2):
        reporters[every] = FolderReporter(tmp_path / str(every))
        train(
            tiny.build("restoration"), tiny.settings("restoration", log_every_n_steps=every), dataset, reporters[every]
        )
    each, paired = (
        {step: values for step, values in reporter.history if "loss" in values} for reporter in reporters.values()
    )
    assert list(paired) == [2, 4, 5]
    for name in ("loss", "code", "gradient_norm"):
        assert paired[2][name] == pytest.approx((each[1][name] + each[2][name]) / 2)
        assert paired[4][name] == pytest.approx((each[3][name] + each[4][name]) / 2)
        assert paired[5][name] == pytest.approx(each[5][name])


@pytest.mark.parametrize("name", STAGES)
def test_validation_leaves_the_training_alone(
    dataset: Path, tmp_path: Path, straight: dict[StageName, Listener], name: StageName
) -> None:
    reporter = FolderReporter(tmp_path)
    train(tiny.build(name), tiny.settings(name, validate_every_n_steps=1), dataset, reporter)
    assert sum("validation_loss" in values for _, values in reporter.history) == 5
    _assert_same_training(_newest(reporter), _newest(straight[name]))


@pytest.mark.parametrize("name", STAGES)
def test_validation_changes_neither_weights_nor_mode(
    dataset: Path, checkpoints: dict[StageName, Checkpoint], name: StageName
) -> None:
    stage = stage_from_checkpoint(checkpoints[name], tiny.settings(name)).train()
    assert isinstance(stage, Stage)
    modes = {path: module.training for path, module in stage.named_modules()}
    before = {path: tensor.clone() for path, tensor in stage.state_dict().items()}
    faces = FaceDataset(dataset, "validation", stage.parts)
    first, pictures = validate(stage, faces, 2, CPU)
    second, _ = validate(stage, faces, 2, CPU)
    assert first == second
    assert set(pictures) == {"", "_codebook"}
    assert {path: module.training for path, module in stage.named_modules()} == modes
    assert modes["generator"]
    _assert_bit_equal(dict(stage.state_dict()), before)
    assert all(parameter.grad is None for parameter in stage.parameters())


@pytest.mark.parametrize("name", ["hq_codebook", "restoration"])
def test_validation_does_not_depend_on_the_batch(
    dataset: Path, checkpoints: dict[StageName, Checkpoint], name: StageName
) -> None:
    stage = stage_from_checkpoint(checkpoints[name])
    faces = FaceDataset(dataset, "validation", stage.parts)
    measured = [validate(stage, faces, batch, CPU)[0] for batch in (1, 2, 5)]
    assert measured[0] == pytest.approx(measured[1], rel=1e-4)
    assert measured[0] == pytest.approx(measured[2], rel=1e-4)


@pytest.mark.parametrize("name", ["hq_codebook", "restoration"])
def test_training_learns(dataset: Path, tmp_path: Path, name: StageName) -> None:
    reporter = FolderReporter(tmp_path)
    settings = tiny.settings(name, steps=40, milestones=())
    train(tiny.build(name, adversarial={"weight": 0}) if name != "restoration" else tiny.build(name),
          settings, dataset, reporter)  # fmt: skip
    losses = [values["loss"] for _, values in reporter.history if "loss" in values]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def _spoil(stage: Stage) -> None:
    """Make one weight that the losses depend on no number."""
    if isinstance(stage, AutoencoderStage):
        for branch in stage.branches:
            stage.generator.branch(branch).decoder.last_layer.data[0, 0, 0, 0] = torch.nan
    else:
        assert isinstance(stage, RestorationStage)
        stage.generator.predictor.head.weight.data[0, 0] = torch.nan


@pytest.mark.parametrize(("name", "terms"), [
    ("hq_codebook", ("l1",)),
    ("lq_codebook", ("l1",)),
    ("association", ("hq_l1", "lq_l1")),
    ("restoration", ("code",)),
])  # fmt: skip
@pytest.mark.parametrize("good_steps", [0, 2])
def test_non_finite_losses_are_never_used(
    dataset: Path, tmp_path: Path, name: StageName, terms: tuple[str, ...], good_steps: int
) -> None:
    codebook = {} if name == "restoration" else {"codebook": {}}
    stage = tiny.build(name, **codebook)
    if not good_steps:
        _spoil(stage)
    start = {path: parameter.detach().clone() for path, parameter in stage.named_parameters()}

    def spoil_later(step: int) -> None:
        if step == good_steps:
            _spoil(stage)
            start.update({path: parameter.detach().clone() for path, parameter in stage.named_parameters()})

    reporter = Listener(tmp_path, spoil_later)
    with pytest.raises(NonFiniteLossError) as caught:
        train(stage, tiny.settings(name, **codebook), dataset, reporter)
    message = str(caught.value)
    assert message.startswith(f"{name}: ")
    assert f"at step {good_steps + 1}: " in message
    for term in terms:
        assert f"{term} on rank 0" in message
    assert "quantizer" not in message, "it is finite"
    torch.testing.assert_close(dict(stage.named_parameters()), start, rtol=0, atol=0, equal_nan=True)
    assert reporter.resume() is None
    assert [step for step, _ in reporter.history] == list(range(1, good_steps + 1))


def test_non_finite_gradients_are_never_used(dataset: Path, tmp_path: Path) -> None:
    stage = tiny.build("restoration")
    before = {path: parameter.detach().clone() for path, parameter in stage.named_parameters()}
    next(stage.generator.predictor.parameters()).register_hook(lambda gradient: gradient * torch.nan)  # type: ignore[union-attr]
    with pytest.raises(NonFiniteLossError, match="at step 1: the gradients"):
        train(stage, tiny.settings("restoration"), dataset, FolderReporter(tmp_path))
    _assert_bit_equal(dict(stage.named_parameters()), {p: torch.nn.Parameter(t) for p, t in before.items()})


@pytest.fixture(scope="module")
def two_ranks(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return together.both_ranks(dataset, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", STAGES)
def test_ranks_end_with_the_same_weights_and_measures(two_ranks: list[dict[str, Any]], name: StageName) -> None:
    first, second = (rank["stages"][name] for rank in two_ranks)
    _assert_bit_equal(first["parameters"], second["parameters"])
    assert first["measured"] == second["measured"]
    assert [step for step, values in first["history"] if "loss" in values] == [1, 2, 3, 4, 5]
    assert second["history"] == [], "only rank 0 reports"
    fresh = dict(tiny.build(name).named_parameters())
    assert any(not torch.equal(first["parameters"][path], fresh[path]) for path in fresh)


def test_two_ranks_train_as_one_does(two_ranks: list[dict[str, Any]], straight: dict[StageName, Listener]) -> None:
    """Stage 3 has no loss that looks beyond its own sample, so the split of the batch must not matter."""
    alone, together_ = (
        {step: values for step, values in history if "loss" in values}
        for history in (straight["restoration"].history, two_ranks[0]["stages"]["restoration"]["history"])
    )
    for metric in ("loss", "code", "feature", "gradient_norm", "codebook_perplexity"):
        assert together_[1][metric] == pytest.approx(alone[1][metric], rel=1e-4)
        assert together_[5][metric] == pytest.approx(alone[5][metric], rel=1e-2)


def test_two_ranks_continue_exactly(two_ranks: list[dict[str, Any]]) -> None:
    for rank in two_ranks:
        _assert_bit_equal(rank["resumed"]["resumed"], rank["resumed"]["straight"])


@pytest.mark.parametrize(("kind", "terms"), [
    ("nan", "code on rank 1, feature on rank 1"),
    ("overflow", "feature on rank 1"),
])  # fmt: skip
def test_all_ranks_detect_what_is_not_finite_on_one(two_ranks: list[dict[str, Any]], kind: str, terms: str) -> None:
    for rank in two_ranks:
        assert rank["non_finite"][kind]["problem"].endswith(f"at step 1: {terms}")
        assert rank["non_finite"][kind]["changed"] == 0
        assert rank["non_finite"]["finite"]["problem"] == ""
        assert rank["non_finite"]["finite"]["changed"] > 0


def test_invalid_settings_are_rejected() -> None:
    for wrong in ({"steps": 0}, {"global_batch_size": 0}, {"base_learning_rate": 0}, {"stepz": 3}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            TrainingConfig.model_validate({"steps": 1} | wrong)
