"""Our backward pass gives the gradients that PyTorch's gives, in every layout and type that is trained in."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daefr.network.convolution import convolve_normed
from daefr.network.normalization import group_norm

Layer = Callable[[Tensor], Tensor]


def _gradients(layer: Layer, x: Tensor, modules: list[nn.Module]) -> list[Tensor]:
    wanted = [x, *(parameter for module in modules for parameter in module.parameters())]
    out = layer(x)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), wanted)]


def _input(layout: torch.memory_format) -> Tensor:
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return x.to(memory_format=layout).requires_grad_()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_those_of_pytorch(layout: torch.memory_format, bias: bool) -> None:
    torch.manual_seed(0)
    x = _input(layout)
    conv = nn.Conv2d(8, 12, 3, padding=1, bias=bias).double().to(memory_format=layout)
    norm = group_norm(4, 8).double()
    ours = _gradients(lambda x: convolve_normed(conv, norm, x), x, [conv, norm])
    theirs = _gradients(lambda x: conv(F.silu(norm(x))), x, [conv, norm])
    for got, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, wanted)


def test_under_autocast_gradients_keep_the_types_of_weights_and_inputs() -> None:
    torch.manual_seed(0)
    x = _input(torch.channels_last).float().detach().requires_grad_()
    conv, norm = nn.Conv2d(8, 8, 3, padding=1), group_norm(4, 8)
    with torch.autocast("cpu", torch.bfloat16):
        ours = _gradients(lambda x: convolve_normed(conv, norm, x).float(), x, [conv, norm])
        theirs = _gradients(lambda x: conv(F.silu(norm(x))).float(), x, [conv, norm])
    for got, wanted in zip(ours, theirs, strict=True):
        assert got.dtype == wanted.dtype == torch.float32
        torch.testing.assert_close(got, wanted, rtol=0.03, atol=0.03 * float(wanted.abs().max()))


def test_what_is_frozen_gets_no_gradient_and_lets_others_pass() -> None:
    conv, norm = nn.Conv2d(8, 8, 3, padding=1), group_norm(4, 8)
    conv.requires_grad_(False)
    x = torch.randn(1, 8, 4, 4, requires_grad=True)
    convolve_normed(conv, norm, x).sum().backward()
    assert x.grad is not None
    assert norm.weight.grad is not None
    assert conv.weight.grad is None
