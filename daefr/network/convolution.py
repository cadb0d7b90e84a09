"""The convolution of a normalized input, with a backward pass that stores less than PyTorch's."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def convolve_normed(conv: nn.Conv2d, norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Return conv(swish(norm(x))), of which the backward pass finds `x` alone and normalizes once more.

    Values and gradients are those of the plain expression. It takes a few percent of a step's time and spares two
    thirds of what is stored, which lets one step hold two autoencoders and their losses. `conv` has stride 1.
    """
    trained = torch.is_grad_enabled() and conv.weight.requires_grad
    # what a compiler fuses it also decides to store or to compute again
    if torch.compiler.is_compiling() or not trained:
        normed = F.silu(norm(x), inplace=not torch.is_grad_enabled())
        # unless the caller keeps it: at the finest level, a restoration's peak is three or four such tensors
        del x
        return conv(normed)  # type: ignore[no-any-return]
    convolved: Tensor = _ConvolveNormed.apply(
        x, norm.weight, norm.bias, conv.weight, conv.bias, (norm.num_groups, norm.eps, int(conv.padding[0]))
    )
    return convolved


class _ConvolveNormed(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, *parameters_and_settings: Any) -> Tensor:
        norm_weight, norm_bias, weight, bias, settings = parameters_and_settings
        context.save_for_backward(x, norm_weight, norm_bias, weight)
        context.settings = settings
        groups, epsilon, padding = settings
        normed = F.silu(F.group_norm(x, groups, norm_weight, norm_bias, epsilon), inplace=True)
        return F.conv2d(normed, weight, bias, padding=padding)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        groups, epsilon, padding = context.settings
        *inputs, weight = context.saved_tensors
        with torch.enable_grad():
            x, norm_weight, norm_bias = (tensor.detach().requires_grad_() for tensor in inputs)
            normed = F.silu(F.group_norm(x, groups, norm_weight, norm_bias, epsilon))
        of_normed, of_weight, of_bias = torch.ops.aten.convolution_backward(
            gradient,
            # under autocast the convolution was computed, and its gradient arrives, in a coarser type
            normed.detach().to(gradient.dtype),
            weight.to(gradient.dtype),
            [len(weight)],
            [1, 1],
            [padding] * 2,
            [1, 1],
            False,
            [0, 0],
            1,
            [True, True, context.needs_input_grad[4]],
        )
        of_inputs = torch.autograd.grad(normed, (x, norm_weight, norm_bias), of_normed.to(normed.dtype))
        of_weight = of_weight.to(weight.dtype)
        return *of_inputs, of_weight, None if of_bias is None else of_bias.to(weight.dtype), None
