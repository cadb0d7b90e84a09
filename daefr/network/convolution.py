"""Convolutions whose backward passes we write ourselves, where PyTorch's store more or take longer than they need to."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Gradients = tuple[Tensor | None, Tensor, Tensor]


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Return conv(x)."""
    return _convolve(x, conv.weight, conv.bias, conv.stride[0], int(conv.padding[0]), transposed=False)


def convolve_normed(conv: nn.Conv2d, norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Return conv(swish(norm(x))), of which the backward pass finds `x` alone and normalizes once more.

    That takes a few percent of a step's time and spares two thirds of what it stores.
    """
    if _is_plain(conv.weight):
        return conv(F.silu(norm(x), inplace=not torch.is_grad_enabled()))  # type: ignore[no-any-return]
    convolved: Tensor = _ConvolveNormed.apply(
        x, norm.weight, norm.bias, conv.weight, conv.bias, norm.num_groups, norm.eps, int(conv.padding[0])
    )
    return convolved


def convolve_transposed(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """Return the transposed convolution of `x` (B, C_in, H, W) with `weight` (C_in, C_out, K, K)."""
    return _convolve(x, weight, bias, stride, padding, transposed=True)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, *, transposed: bool) -> Tensor:
    if _is_plain(weight):
        function = F.conv_transpose2d if transposed else F.conv2d
        return function(x, weight, bias, stride=stride, padding=padding)
    convolved: Tensor = _Convolve.apply(x, weight, bias, stride, padding, transposed)
    return convolved


def _is_plain(weight: Tensor) -> bool:
    """Whether PyTorch is to do it all: without a gradient of the weight, or where a compiler decides for itself."""
    return torch.compiler.is_compiling() or not (torch.is_grad_enabled() and weight.requires_grad)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, transposed: bool
    ) -> Tensor:
        context.save_for_backward(x, weight)
        context.settings = stride, padding, transposed
        function = F.conv_transpose2d if transposed else F.conv2d
        return function(x, weight, bias, stride=stride, padding=padding)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = context.saved_tensors
        of_x, of_weight, of_bias = _gradients(
            gradient, x, weight, *context.settings, needs_x=context.needs_input_grad[0]
        )
        return of_x, of_weight, of_bias if context.needs_input_grad[2] else None, None, None, None


class _ConvolveNormed(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        x: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        groups: int,
        epsilon: float,
        padding: int,
    ) -> Tensor:
        context.save_for_backward(x, norm_weight, norm_bias, weight)
        context.settings = groups, epsilon, padding
        return F.conv2d(F.silu(F.group_norm(x, groups, norm_weight, norm_bias, epsilon)), weight, bias, padding=padding)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        groups, epsilon, padding = context.settings
        *inputs, weight = context.saved_tensors
        with torch.enable_grad():
            x, norm_weight, norm_bias = (tensor.detach().requires_grad_() for tensor in inputs)
            normed = F.silu(F.group_norm(x, groups, norm_weight, norm_bias, epsilon))
        of_normed, of_weight, of_bias = _gradients(gradient, normed.detach(), weight, 1, padding, False, needs_x=True)
        of_inputs = torch.autograd.grad(normed, (x, norm_weight, norm_bias), of_normed)
        return *of_inputs, of_weight, of_bias if context.needs_input_grad[4] else None, None, None, None


def _gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, transposed: bool, *, needs_x: bool
) -> Gradients:
    """Return the gradients of a convolution's input, weight and bias, in the types of input and weight."""
    # under autocast the convolution was computed, and its gradient arrives, in a coarser type
    coarse_x, coarse_weight = x.to(gradient.dtype), weight.to(gradient.dtype)
    settings = [weight.shape[1 if transposed else 0]], [stride] * 2, [padding] * 2, [1, 1], transposed, [0, 0], 1
    backward = torch.ops.aten.convolution_backward
    if gradient.device.type == "cpu":
        of_x, _, _ = backward(gradient, coarse_x, coarse_weight, *settings, [needs_x, False, False])
        # channels-last is the faster layout for everything but this, which then takes up to 3 times as long
        first = (tensor.contiguous() for tensor in (gradient, coarse_x, coarse_weight))
        _, of_weight, of_bias = backward(*first, *settings, [False, True, True])
    else:
        of_x, of_weight, of_bias = backward(gradient, coarse_x, coarse_weight, *settings, [needs_x, True, True])
    return of_x.to(x.dtype) if needs_x else None, of_weight.to(weight.dtype), of_bias.to(weight.dtype)
