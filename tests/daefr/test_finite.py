"""Where the host looks at a step later, as on a GPU, no optimizer steps on what is not finite all the same."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from daefr.data.dataset import Batch
from daefr.stages import Stage
from daefr.training import loop
from daefr.training.errors import NonFiniteLossError
from daefr.training.optimization import Optimization
from daefr.training.reporter import FolderReporter
from daefr.training.state import TrainingState
from tests.daefr import tiny

CPU = torch.device("cpu")
GOOD_STEPS = 2
OPTIONS: dict[str, Any] = {"adversarial": {"start_step": 0}, "max_grad_norm": 1.0, "ema_decay": 0.9, "codebook": {}}


def _images() -> Batch:
    generator = torch.Generator().manual_seed(0)
    return {"hq": torch.rand((2, 3, tiny.SIDE, tiny.SIDE), generator=generator) * 2 - 1}


def _after_good_steps() -> tuple[Stage, TrainingState, Optimization]:
    stage, settings = tiny.build("hq_codebook", **OPTIONS).train(), tiny.settings("hq_codebook", **OPTIONS)
    state = TrainingState(stage, settings)
    optimization = Optimization(state, CPU, check_later=True)
    for _ in range(GOOD_STEPS):
        optimization.step(_images())
    return stage, state, optimization


def _kept(state: TrainingState) -> dict[str, Any]:
    """All that an optimizer step changes, without the statistics that a forward pass takes."""
    return copy.deepcopy(
        {
            "parameters": dict(state.stage.named_parameters()),
            "optimizers": {name: optimizer.state_dict()["state"] for name, optimizer in state.optimizers.items()},
        }
    )


def _assert_equal(mine: Any, theirs: Any) -> None:
    assert type(mine) is type(theirs)
    if isinstance(mine, dict):
        assert mine.keys() == theirs.keys()
        for name in mine:
            _assert_equal(mine[name], theirs[name])
    elif isinstance(mine, Tensor):
        assert torch.equal(mine, theirs)
    else:
        assert mine == theirs


@pytest.mark.parametrize("where", ["image", "gradient of the generator", "gradient of the discriminator"])
def test_weights_and_moments_stay_those_of_the_last_finite_step(where: str) -> None:
    stage, state, optimization = _after_good_steps()
    before = _kept(state)
    images = _images()
    if where == "image":
        images["hq"][0, 0, 0, 0] = torch.nan
    else:
        network = stage.generator if where.endswith("generator") else stage.discriminator
        assert network is not None
        next(network.parameters()).register_hook(lambda gradient: gradient * torch.inf)
    optimization.step(images)
    _assert_equal(_kept(state), before)
    with pytest.raises(NonFiniteLossError, match=f"at step {GOOD_STEPS + 1}: ") as caught:
        optimization.check_finite()
    assert ("l1 on rank 0" in str(caught.value)) == (where == "image")


def test_the_next_step_raises_before_its_own() -> None:
    _, state, optimization = _after_good_steps()
    before = _kept(state)
    bad = _images()
    bad["hq"][0, 0, 0, 0] = torch.inf
    optimization.step(bad)
    with pytest.raises(NonFiniteLossError, match=f"at step {GOOD_STEPS + 1}: .*l1 on rank 0"):
        optimization.step(_images())
    _assert_equal(_kept(state), before)


def test_looking_later_changes_no_finite_step() -> None:
    _, later, _ = _after_good_steps()
    settings = tiny.settings("hq_codebook", **OPTIONS)
    now = TrainingState(tiny.build("hq_codebook", **OPTIONS).train(), settings)
    optimization = Optimization(now, CPU, check_later=False)
    for _ in range(GOOD_STEPS):
        optimization.step(_images())
    _assert_equal(_kept(later), _kept(now))


@pytest.mark.parametrize("every", [1, 2, 3])
def test_no_checkpoint_and_no_report_is_of_a_bad_step(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    class Later(Optimization):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, check_later=True)

    monkeypatch.setattr(loop, "Optimization", Later)
    stage = tiny.build("restoration")
    calls = []

    def spoil(gradient: Tensor) -> Tensor:
        calls.append(1)
        return gradient * torch.nan if len(calls) == GOOD_STEPS + 1 else gradient

    next(stage.generator.get_submodule("predictor").parameters()).register_hook(spoil)
    reporter = FolderReporter(tmp_path)
    options: dict[str, Any] = {
        "log_every_n_steps": every,
        "checkpoint_every_n_steps": every,
        "validate_every_n_steps": every,
    }
    with pytest.raises(NonFiniteLossError, match=f"^restoration: .* at step {GOOD_STEPS + 1}: "):
        loop.train(stage, tiny.settings("restoration", **options), dataset, reporter)
    reporter.finish()
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [
        f"step-{step:09d}" for step in range(1, GOOD_STEPS + 1) if step % every == 0
    ]
    assert {step for step, _ in reporter.history} == {step for step in range(1, 3) if step % every == 0}
