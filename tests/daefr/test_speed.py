"""The speed options: they change how fast the same numbers come, or little of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from daefr.data.dataset import Batch
from daefr.restore import Restorer
from daefr.settings.base import StageName
from daefr.settings.files import read_yaml, validate
from daefr.settings.speed import Speed
from daefr.speed import COMPILED_PARTS, arrange_batch, prepare_network
from daefr.stages import RestorationStage, Stage
from daefr.training.optimization import Optimization
from daefr.training.state import TrainingState
from tests.daefr import tiny

CPU = torch.device("cpu")
STAGES: tuple[StageName, ...] = ("hq_codebook", "association", "restoration")
PLAIN = {"channels_last": False, "autocast": "off", "compile": False}


def _batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    shape = (4, 3, tiny.SIDE, tiny.SIDE)
    return {name: torch.rand(shape, generator=generator) * 2 - 1 for name in ("hq", "lq")}


def _trained(name: StageName, **speed: object) -> tuple[Stage, dict[str, Tensor]]:
    """A stage after two steps with the discriminator, and the scalars of the first."""
    changes = {} if name == "restoration" else {"adversarial": {"start_step": 0}}
    training = tiny.settings(name, speed=PLAIN | speed, **changes)
    stage = prepare_network(tiny.build(name, **changes), training.speed, CPU).train()
    optimization = Optimization(TrainingState(stage, training), CPU)
    images = arrange_batch(_batch(), training.speed, CPU)
    _, terms = optimization.step(images)
    optimization.step(images)
    return stage, terms


@pytest.mark.parametrize("name", STAGES)
def test_channels_last_changes_nothing_but_rounding(name: StageName) -> None:
    (plain, expected), (stage, terms) = _trained(name), _trained(name, channels_last=True)
    for term, value in terms.items():
        # in gradients a slope of the discriminator may flip with the rounding
        tolerance = 1e-2 if term.endswith(("gradient_norm", "adaptive_weight")) else 1e-5
        assert value.item() == pytest.approx(expected[term].item(), rel=tolerance, abs=1e-6), term
    assert [name for name, _ in stage.named_parameters()] == [name for name, _ in plain.named_parameters()]
    weights = [weight for weight in stage.parameters() if weight.dim() == 4 and min(weight.shape[1:]) > 1]
    assert weights
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


@pytest.mark.parametrize("name", STAGES)
def test_autocast_stays_close_and_keeps_weights_and_losses_in_float32(name: StageName) -> None:
    (_, expected), (stage, terms) = _trained(name), _trained(name, autocast="bfloat16")
    assert all(value.dtype == torch.float32 for value in terms.values())
    assert all(parameter.dtype == torch.float32 for parameter in stage.parameters())
    for term in ("l1", "hq_l1", "lq_l1", "code", "feature"):
        if term in expected:
            assert terms[term].item() == pytest.approx(expected[term].item(), rel=0.05)
    assert terms["loss"].item() != expected["loss"].item()


@pytest.mark.parametrize("name", ["hq_codebook", "restoration"])
def test_compiling_marks_the_levels_and_keeps_the_names(name: StageName) -> None:
    plain, compiled = tiny.build(name), prepare_network(tiny.build(name), Speed(compile=True), CPU)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    marked = [module for module in compiled.modules() if "forward" in vars(module)]
    assert len(marked) == sum(isinstance(module, COMPILED_PARTS) for module in compiled.modules()) > 0


@pytest.mark.parametrize("speed", [{}, {"channels_last": False}, {"autocast": "bfloat16"}])
def test_restoring_with_options(speed: dict[str, object]) -> None:
    stage = tiny.build("restoration")
    assert isinstance(stage, RestorationStage)
    image = tiny.face(np.random.default_rng(0))
    plain = Restorer(stage, CPU, Speed.model_validate(PLAIN)).restore_crops([image])[0]
    restored = Restorer(stage, CPU, Speed.model_validate(PLAIN | speed)).restore_crops([image])[0]
    assert restored.shape == plain.shape
    if "autocast" not in speed:
        assert abs(restored.astype(int) - plain.astype(int)).max() <= 1


def test_defaults_suit_the_device() -> None:
    kernels: dict[str, object] = {"group_norm": "torch", "upsample": "transposed"}
    plain = {"channels_last": False, "autocast": "off", "compile": False, "cudnn_benchmark": False}
    assert Speed().on("cpu") == Speed.model_validate(plain | kernels | {"retain_freed_memory": True})
    cuda = {"channels_last": True, "autocast": "bfloat16", "compile": True, "cudnn_benchmark": True}
    assert Speed().on("cuda") == Speed.model_validate(cuda | kernels | {"retain_freed_memory": False})
    chosen = Speed.model_validate(
        plain | {"retain_freed_memory": False, "group_norm": "channels_last", "upsample": "nearest"}
    )
    assert chosen.on("cuda") == chosen


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize(
    "speed",
    [
        {"group_norm": "channels_last"},
        {"upsample": "nearest"},
        {"activation_checkpointing": True},
        {"cudnn_benchmark": True},
    ],
)
def test_kernels_and_recomputation_change_nothing_but_rounding(name: StageName, speed: dict[str, object]) -> None:
    (_, expected), (_, terms) = _trained(name), _trained(name, **speed)
    for term, value in terms.items():
        tolerance = 1e-2 if term.endswith(("gradient_norm", "adaptive_weight")) else 1e-5
        assert value.item() == pytest.approx(expected[term].item(), rel=tolerance, abs=1e-6), term


def test_only_images_are_arranged() -> None:
    batch = {"hq": torch.zeros(2, 3, 4, 4), "components": torch.zeros(2, 3, 4)}
    arranged = arrange_batch(batch, Speed(channels_last=True), CPU)
    assert arranged["hq"].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(arranged["components"], batch["components"])


def test_options_are_checked(tmp_path: Path) -> None:
    for wrong in ({"autocast": "float8"}, {"channels_first": True}, {"compile": "sometimes"}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            Speed.model_validate(wrong)
    path = tmp_path / "speed.yaml"
    path.write_text("autocast: off")
    assert validate(Speed, read_yaml(path)).autocast == "off", "which YAML reads as false"
