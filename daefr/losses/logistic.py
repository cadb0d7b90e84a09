"""The logistic ("vanilla") adversarial losses, which the component discriminators have (GFP-GAN, RestoreFormer)."""

import torch.nn.functional as F
from torch import Tensor


def logistic_discriminator_loss(real: Tensor, generated: Tensor) -> Tensor:
    """Cross-entropy of telling real from generated: mean softplus(-real) + mean softplus(generated), a scalar.

    Args:
        real: scores of real images, any shape.
        generated: scores of generated images, which were detached from the generator.

    """
    return F.softplus(-real).mean() + F.softplus(generated).mean()


def logistic_generator_loss(generated: Tensor) -> Tensor:
    """Cross-entropy of taking generated images for real ones: mean softplus(-generated), a scalar."""
    return F.softplus(-generated).mean()
