"""Options of the loop: schedules, parts of a batch, clipping, averaged weights, recomputing, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from daefr.data.dataset import Batch
from daefr.errors import UserError
from daefr.settings.base import StageName
from daefr.settings.training import AutoencoderTraining, RestorationTraining, TrainingConfig
from daefr.speed import prepare_network
from daefr.stages import STAGES
from daefr.training.errors import StoppedError
from daefr.training.loop import train
from daefr.training.optimization import Optimization
from daefr.training.reporter import FolderReporter
from daefr.training.state import TrainingState
from tests.daefr import tiny

CPU = torch.device("cpu")
EVERYTHING: dict[str, Any] = {
    "gradient_accumulation_steps": 2, "ema_decay": 0.9, "max_grad_norm": 0.5, "warmup_steps": 2,
    "lr_scheduler": "cosine", "min_lr_ratio": 0.1, "milestones": (), "speed": {"activation_checkpointing": True},
}  # fmt: skip


@pytest.mark.parametrize("name", STAGES)
def test_a_training_with_every_option_is_continued_exactly(dataset: Path, tmp_path: Path, name: StageName) -> None:
    class EndingReporter(FolderReporter):
        def should_stop(self) -> bool:
            return bool(self.history)

    settings = tiny.settings(name, **EVERYTHING)
    straight, halves = FolderReporter(tmp_path / "straight"), FolderReporter(tmp_path / "halves")
    train(tiny.build(name, **EVERYTHING), settings, dataset, straight)
    with pytest.raises(StoppedError, match="step 2"):
        train(tiny.build(name, **EVERYTHING), settings, dataset, EndingReporter(tmp_path / "halves"))
    train(tiny.build(name, seed=3, **EVERYTHING), settings, dataset, halves, resume=halves.resume())
    first, second = straight.resume(), halves.resume()
    assert first is not None
    assert second is not None
    _assert_bit_equal(first.tensors(), second.tensors())
    _assert_bit_equal(first.average(), second.average())
    assert first.average()
    for optimizer, state in first.trainer()["optimizers"].items():
        for number, moments in state["state"].items():
            _assert_bit_equal(moments, second.trainer()["optimizers"][optimizer]["state"][number])
    mine, theirs = (
        {step: values["loss"] for step, values in each.history if "loss" in values} for each in (straight, halves)
    )
    assert {step: mine[step] for step in theirs} == theirs


def _assert_bit_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_schedules_are_functions_of_the_step() -> None:
    warm = RestorationTraining(steps=100, global_batch_size=1, base_learning_rate=1, warmup_steps=4, milestones=(50,))
    assert [warm.learning_rate_at(step) for step in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    assert (warm.learning_rate_at(49), warm.learning_rate_at(50)) == pytest.approx((1, 0.1))
    cosine = RestorationTraining(
        steps=104, global_batch_size=1, base_learning_rate=1, warmup_steps=4, lr_scheduler="cosine", min_lr_ratio=0.2
    )
    assert cosine.learning_rate_at(4) == 1
    assert cosine.learning_rate_at(54) == pytest.approx(0.6)
    assert cosine.learning_rate_at(103) == pytest.approx(0.2, abs=1e-3)
    rates = [cosine.learning_rate_at(step) for step in range(4, 104)]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(("wrong", "key"), [
    ({"global_batch_size": 4, "gradient_accumulation_steps": 3}, "global_batch_size"),
    ({"lr_scheduler": "cosine", "milestones": (3,)}, "milestones"),
    ({"min_lr_ratio": 0.1}, "min_lr_ratio"),
    ({"warmup_steps": 10}, "warmup_steps=10"),
    ({"ema_decay": 1.0}, "ema_decay"),
    ({"max_grad_norm": 0}, "max_grad_norm"),
])  # fmt: skip
def test_errors_name_the_inconsistent_settings(wrong: dict[str, Any], key: str) -> None:
    with pytest.raises(ValidationError, match=key):
        TrainingConfig.model_validate({"steps": 10} | wrong)


@pytest.mark.parametrize(("options", "key"), [
    ({"speed": {"allow_tf32": True}}, r"speed\.allow_tf32=true"),
    ({"adversarial": {"sync_batchnorm": True}}, r"adversarial\.sync_batchnorm=true"),
])  # fmt: skip
def test_settings_that_require_a_gpu_are_rejected_on_a_cpu(
    dataset: Path, tmp_path: Path, options: dict[str, Any], key: str
) -> None:
    with pytest.raises(UserError, match=key):
        train(tiny.build("hq_codebook", **options), tiny.settings("hq_codebook", **options), dataset,
              FolderReporter(tmp_path))  # fmt: skip


def test_synchronized_batchnorm_takes_the_place_of_every_other_and_keeps_the_names() -> None:
    plain, synchronized = tiny.build("hq_codebook"), tiny.build("hq_codebook", adversarial={"sync_batchnorm": True})
    assert list(synchronized.weights()) == list(plain.weights())
    kinds = [
        type(module) for module in synchronized.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    ]
    assert kinds
    assert set(kinds) == {torch.nn.SyncBatchNorm}
    assert AutoencoderTraining(steps=1).adversarial.sync_batchnorm is False


def _batch(size: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(size, 3, tiny.SIDE, tiny.SIDE, generator=generator) * 2 - 1 for name in ("hq", "lq")}


def _gradients(parts: int, **changes: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    stage = tiny.build("restoration")
    optimization = Optimization(TrainingState(stage.train(), tiny.settings("restoration", **changes)), CPU)
    batch = _batch()
    chunks = zip(*(batch[name].chunk(parts) for name in ("hq", "lq")), strict=True)
    _, terms = optimization.step(*({"hq": hq, "lq": lq} for hq, lq in chunks))
    gradients = {name: weight.grad for name, weight in stage.named_parameters() if weight.grad is not None}
    return gradients, terms


def test_parts_of_a_batch_give_the_gradients_of_the_whole() -> None:
    (whole, expected), (parts, terms) = _gradients(1), _gradients(4)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-3, atol=1e-6)
    for name, term in expected.items():
        assert terms[name].item() == pytest.approx(term.item(), rel=1e-4)


def test_gradients_are_cut_to_their_limit() -> None:
    (free, terms), (cut, same) = _gradients(1), _gradients(1, max_grad_norm=1e-3)
    assert same["gradient_norm"] == terms["gradient_norm"] > 1e-3
    norm = torch.linalg.vector_norm(torch.stack([gradient.norm() for gradient in cut.values()]))
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)
    assert free.keys() == cut.keys()


def test_the_average_follows_the_weights() -> None:
    stage = tiny.build("restoration")
    state = TrainingState(stage, tiny.settings("restoration", ema_decay=0.5))
    assert state.average is not None
    before = {name: tensor.clone() for name, tensor in state.average.tensors.items()}
    with torch.no_grad():
        for parameter in stage.parameters():
            parameter.fill_(3)
        state.average.update(1000)
    for name, averaged in state.average.tensors.items():
        torch.testing.assert_close(averaged, (before[name] + 3) / 2)
    with state.average.in_place():
        for name, averaged in state.average.tensors.items():
            assert torch.equal(stage.state_dict()[name], averaged)
    assert all(bool((parameter == 3).all()) for parameter in stage.parameters())


@pytest.mark.parametrize("name", ["hq_codebook", "restoration"])
def test_recomputing_changes_nothing_but_the_work(name: StageName) -> None:
    ends = []
    for recompute in (False, True):
        changes: dict[str, Any] = {} if name == "restoration" else {"adversarial": {"start_step": 0}}
        training = tiny.settings(name, speed={"activation_checkpointing": recompute}, **changes)
        stage = prepare_network(tiny.build(name, **changes), training.speed, CPU).train()
        passes: list[int] = []
        level = next(module for module in stage.generator.modules() if type(module).__name__ == "DownLevel")
        level.block[0].register_forward_hook(lambda *_, passes=passes: passes.append(1))  # type: ignore[union-attr, operator]
        Optimization(TrainingState(stage, training), CPU).step(_batch())
        ends.append((stage.weights(), len(passes)))
    _assert_bit_equal(ends[0][0], ends[1][0])
    assert ends[1][1] == 2 * ends[0][1]
