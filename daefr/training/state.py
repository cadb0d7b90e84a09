"""Everything of a training that must survive its end."""

from typing import Any

import torch

from daefr.stages.base import Stage
from daefr.stages.config import TrainingConfig


class TrainingState:
    """A stage's weights, its optimizers and the step.

    That is all: the learning rate, the position in the data, flips, variants and every other random choice are
    functions of the seed and the step (see `daefr.data.order`), so there is no random generator to save.
    """

    def __init__(self, stage: Stage, training: TrainingConfig) -> None:
        """Begin at step 0 with fresh optimizers."""
        self.stage, self.training, self.step = stage, training, 0
        self.optimizers = {
            name: torch.optim.Adam(
                [parameter for parameter in module.parameters() if parameter.requires_grad],
                lr=training.learning_rate,
                betas=training.betas,
                fused=True,
            )
            for name, module in (("generator", stage.generator), ("discriminator", stage.discriminator))
            if module is not None
        }

    def save(self) -> dict[str, Any]:
        """Return what a checkpoint stores beside the weights."""
        return {
            "step": self.step,
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "buffers": {name: tensor.cpu() for name, tensor in self._buffers().items()},
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Go on from what `save` returned; the weights are the stage's own matter."""
        self.step = saved["step"]
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(saved["optimizers"][name])
        for name, tensor in self._buffers().items():
            tensor.copy_(saved["buffers"][name])

    def _buffers(self) -> dict[str, torch.Tensor]:
        weights = self.stage.weights()
        return {name: tensor for name, tensor in self.stage.named_buffers() if name not in weights}
