"""The state of a training that its checkpoints store."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from daefr.checkpoint import Checkpoint, save_checkpoint
from daefr.errors import UserError
from daefr.settings.training import TrainingConfig
from daefr.stages.base import Stage
from daefr.training.average import WeightAverage


class TrainingState:
    """A stage's weights, their average, its optimizers, the step and the best validation loss.

    The learning rate, the position in the data, flips, variants and all other random choices are functions of the seed
    and the step (see `daefr.data.order`), so there is no random generator to save.
    """

    def __init__(self, stage: Stage, training: TrainingConfig) -> None:
        """Start at step 0 with fresh optimizers."""
        self.stage, self.training, self.step = stage, training, 0
        self.best_loss = float("inf")
        self.average = WeightAverage(stage, training.ema_decay) if training.ema_decay else None
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

    def resume(self, checkpoint: Checkpoint) -> None:
        """Resume from a checkpoint of this stage.

        Raises `UserError` if it is of another stage, or has no training state or averages.
        """
        self.stage.load_weights(checkpoint.tensors(), str(checkpoint.path))
        saved = checkpoint.trainer()
        self.step, self.best_loss = saved["step"], saved["best_loss"]
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(saved["optimizers"][name])
        for name, tensor in self._buffers().items():
            tensor.copy_(saved["buffers"][name])
        if self.average is not None:
            average = checkpoint.average()
            if not average:
                raise UserError(f"{checkpoint.path} has no averaged weights, because it was trained without ema_decay")
            self.average.load(average)

    def snapshot(self) -> Callable[[Path], None]:
        """Copy the state to the CPU, and return a function that writes the copy as a checkpoint, on any thread."""
        stage = self.stage
        trainer = {
            "step": self.step,
            "best_loss": self.best_loss,
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "buffers": self._buffers(),
        }
        tensors, trainer, average = _copy((stage.weights(), trainer, self.average.tensors if self.average else None))
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.current_stream().synchronize()

        def write(directory: Path) -> None:
            save_checkpoint(directory, stage.name, stage.network, tensors, trainer, average=average)

        return write

    def _buffers(self) -> dict[str, Tensor]:
        weights = self.stage.weights()
        return {name: tensor for name, tensor in self.stage.named_buffers() if name not in weights}


def _copy(value: Any) -> Any:
    """Return nested dictionaries, lists and tuples with copies of all tensors on the CPU.

    Copies from a GPU are complete when its stream is synchronized.
    """
    if isinstance(value, Tensor):
        # pinned memory, which PyTorch caches, allows asynchronous copies
        copy = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
        return copy.copy_(value.detach(), non_blocking=value.is_cuda)
    if isinstance(value, dict):
        return {name: _copy(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_copy, value))
    return value
