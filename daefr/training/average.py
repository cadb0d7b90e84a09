"""The moving average of the weights (EMA), which often restores better than the last of them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from daefr.stages.base import Stage


class WeightAverage:
    """An exponential moving average of what a stage's generator trains, on the device of its weights."""

    def __init__(self, stage: Stage, decay: float) -> None:
        """Begin with the weights as they are."""
        self._decay = decay
        self._weights = {
            f"generator.{name}": parameter.detach()
            for name, parameter in stage.generator.named_parameters()
            if parameter.requires_grad
        }
        self.tensors = {name: weight.clone() for name, weight in self._weights.items()}
        """The averages, by their weights' names in a checkpoint."""

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` (from 1 on); the first ones, which soon mean nothing, fade faster."""
        decay = min(self._decay, step / (step + 9))
        torch._foreach_lerp_(list(self.tensors.values()), list(self._weights.values()), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the averages in the place of the weights while a block runs."""
        kept = {name: weight.clone() for name, weight in self._weights.items()}
        _copy(self.tensors, self._weights)
        try:
            yield
        finally:
            _copy(kept, self._weights)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Go on from earlier averages."""
        _copy(tensors, self.tensors)


@torch.no_grad()
def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])
