"""Adversarial terms of the codebook and association stages (paper section 3.1; the VQGAN lineage)."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

GRADIENT_FLOOR = 1e-4
WEIGHT_LIMIT = 1e4


def discriminator_loss(real: Tensor, generated: Tensor) -> Tensor:
    """Hinge loss of the discriminator: 0.5 (mean relu(1 - real) + mean relu(1 + generated)), a scalar.

    Args:
        real: scores of real images, any shape.
        generated: scores of generated images, detached from the generator.

    """
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + generated).mean())


def generator_loss(generated: Tensor) -> Tensor:
    """The generator's adversarial term, -mean of the scores of generated images: a scalar."""
    return -generated.mean()


def adaptive_weight(
    image: Tensor,
    reconstruction_grad: Tensor,
    adversarial_grad: Tensor,
    last_layer: Tensor,
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return the weight that makes the adversarial gradient in the last layer as large as the reconstruction's.

    |d reconstruction / d last_layer| / (|d adversarial / d last_layer| + 1e-4), clamped to [0, 1e4] (the
    reference's ``calculate_adaptive_weight``, before its constant factor 0.8).

    The gradients with respect to the image, which the training step computes anyway, are propagated through the last
    layer only, so perceptual network and discriminator need no second backward pass.

    Args:
        image: (B, 3, R, R), the decoder's output; its graph is kept for the backward pass.
        reconstruction_grad: gradient of the reconstruction loss, L1 + perceptual, with respect to `image`.
        adversarial_grad: likewise of the adversarial loss, from `generator_loss`.
        last_layer: the weight of the decoder's last convolution.
        reduce: averages a gradient over all ranks; by default, each rank computes its own weight.

    Returns:
        A detached scalar.

    """
    average = reduce or _unchanged
    (reconstruction,) = torch.autograd.grad(image, last_layer, reconstruction_grad, retain_graph=True)
    (adversarial,) = torch.autograd.grad(image, last_layer, adversarial_grad, retain_graph=True)
    return gradient_ratio(average(reconstruction), average(adversarial))


def gradient_ratio(reconstruction: Tensor, adversarial: Tensor) -> Tensor:
    """Return the adaptive weight for two gradients of the last layer, of any equal shapes: a detached scalar."""
    reconstruction_norm = torch.linalg.vector_norm(reconstruction.detach())
    adversarial_norm = torch.linalg.vector_norm(adversarial.detach())
    return torch.clamp(reconstruction_norm / (adversarial_norm + GRADIENT_FLOOR), 0, WEIGHT_LIMIT)


def with_gradient(loss: Tensor, image: Tensor, gradient: Tensor) -> Tensor:
    """Return `loss`, a scalar, with the given `gradient` with respect to `image` instead of its own."""
    differentiable: Tensor = _WithGradient.apply(loss.detach(), image, gradient)
    return differentiable


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, loss: Tensor, image: Tensor, gradient: Tensor) -> Tensor:  # noqa: ARG004
        context.save_for_backward(gradient)
        return loss.clone()

    @staticmethod
    def backward(context: Any, scale: Tensor) -> tuple[None, Tensor, None]:
        (gradient,) = context.saved_tensors
        return None, scale * gradient, None


def _unchanged(gradient: Tensor) -> Tensor:
    return gradient
