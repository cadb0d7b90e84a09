"""What a GPU refuses and a CPU computes: operations on floating-point tensors of different types."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from daefr.losses.perceptual import PerceptualLoss, _Distance
from daefr.network.normalization import group_norm
from daefr.settings.base import StageName
from daefr.stages import STAGES
from daefr.training.optimization import Optimization
from daefr.training.state import TrainingState
from tests.daefr import tiny

CPU = torch.device("cpu")
# operations that promote or convert types by definition, on every device
CONVERTING = ("_to_copy", "copy_", "clone", "detach", "_foreach_", "lerp", "cat", "stack", "_fused_adam", "where")
# batch normalization takes such types on every device; layer normalization, which is PyTorch's own in both passes, is
# called by CUDA's autocast with one type, by the CPU's with several; attention keeps its sums in float32
EXEMPT = ("native_batch_norm", "native_layer_norm", "_scaled_dot_product")


class MixedTypes(TorchDispatchMode):
    """Finds operations on floating-point tensors of several types, but for scalars and elementwise promotion."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.found: set[tuple[str, ...]] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dim()]
        name = func.overloadpacket.__name__
        self.calls += 1
        pointwise = torch.Tag.pointwise in func.tags
        if len({tensor.dtype for tensor in tensors}) > 1 and not pointwise and not name.startswith(CONVERTING + EXEMPT):
            self.found.add((name, *(str(tensor.dtype) for tensor in tensors)))
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def vgg16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vgg16") / "vgg16.safetensors"
    weights = PerceptualLoss().net.state_dict()
    safetensors.torch.save_file({f"features.{name.partition('.')[2]}": value for name, value in weights.items()}, path)
    return path


@pytest.mark.parametrize("name", STAGES)
def test_no_operation_of_a_step_mixes_types_under_autocast(name: StageName, vgg16: Path) -> None:
    changes: dict[str, Any] = {"ema_decay": 0.9, "max_grad_norm": 1.0, "speed": {"autocast": "bfloat16"}}
    if name != "restoration":
        changes |= {
            "adversarial": {"start_step": 0},
            "perceptual": {"weight": 1, "vgg16": vgg16},
            "components": {"weight": 1},
        }
    stage, settings = tiny.build(name, **changes).train(), tiny.settings(name, **changes)
    generator = torch.Generator().manual_seed(0)
    images = {part: torch.rand((2, 3, tiny.SIDE, tiny.SIDE), generator=generator) * 2 - 1 for part in ("hq", "lq")}
    images["components"] = torch.tensor([[[1.0, 1, 7, 7], [8, 1, 15, 7], [4, 9, 12, 15]]]).repeat(2, 1, 1)
    optimization = Optimization(TrainingState(stage, settings), CPU)
    # oneDNN's bfloat16 gradient of a convolution of crops of 2 pixels has some NaN in it on some runs
    with torch.backends.mkldnn.flags(enabled=False), MixedTypes() as mode:
        optimization.step(images)
    assert mode.calls > 100
    assert not mode.found


def test_the_mode_finds_a_mixed_normalization() -> None:
    with MixedTypes() as mode:
        torch.nn.functional.group_norm(torch.zeros(1, 4, 2, 2, dtype=torch.bfloat16), 2, torch.ones(4), torch.ones(4))
    assert [name for name, *_ in mode.found] == ["native_group_norm"]


def test_the_distance_has_the_gradient_of_its_values() -> None:
    generator = torch.Generator().manual_seed(0)
    feature, other = (torch.randn((2, 3, 4, 4), generator=generator, dtype=torch.float64) for _ in range(2))
    feature.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: _Distance.apply(x, other), feature)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_both_group_normalizations_agree(layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn((2, 8, 5, 4), generator=generator, dtype=torch.float64) * 3 + 2).to(memory_format=layout)
    x.requires_grad_()
    norm = group_norm(4, 8).double()
    norm.weight.data.uniform_(0.5, 2, generator=generator)
    norm.bias.data.uniform_(-1, 1, generator=generator)
    expected, expected_grads = _values_and_gradients(norm, x, norm.weight, norm.bias)
    norm.keep_channels_last = True
    values, grads = _values_and_gradients(norm, x, norm.weight, norm.bias)
    assert values.is_contiguous(memory_format=layout)
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(grads, expected_grads)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_both_upsamplings_agree(layout: torch.memory_format) -> None:
    from daefr.network.blocks import Upsample

    torch.manual_seed(0)
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    upsample = Upsample(6).double().to(memory_format=layout)
    expected = _values_and_gradients(upsample, x, *upsample.parameters())
    upsample.transposed = False
    torch.testing.assert_close(_values_and_gradients(upsample, x, *upsample.parameters()), expected)


def _values_and_gradients(layer: Callable[[Tensor], Tensor], *inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
    values = layer(inputs[0])
    weights = torch.linspace(-1, 1, values.numel(), dtype=values.dtype).view(values.shape)
    return values.detach(), list(torch.autograd.grad((values * weights).sum(), inputs))
