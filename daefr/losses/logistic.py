"""The logistic ("vanilla") adversarial losses of the component discriminators (GFP-GAN, RestoreFormer)."""

import torch.nn.functional as F
from torch import Tensor


def logistic_discriminator_loss(real: Tensor, generated: Tensor) -> Tensor:
    """Cross-entropy of the discriminator: mean softplus(-real) + mean softplus(generated), a scalar.

    Args:
        real: scores of real images, any shape.
        generated: scores of generated images, detached from the generator.

    """
    return F.softplus(-real).mean() + F.softplus(generated).mean()


def logistic_generator_loss(generated: Tensor) -> Tensor:
    """The generator's loss, mean softplus(-generated): a scalar."""
    return F.softplus(-generated).mean()
