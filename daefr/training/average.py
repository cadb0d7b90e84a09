"""The exponential moving average (EMA) of the weights, which often gives better results than the weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from daefr.stages.base import Stage


class WeightAverage:
    """The EMA of the trained weights of a stage's generator, on their device."""

    def __init__(self, stage: Stage, decay: float) -> None:
        """Start with the current weights."""
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
        """Update with the weights after `step`, from 1; the first steps, soon obsolete, decay faster."""
        decay = min(self._decay, step / (step + 9))
        torch._foreach_lerp_(list(self.tensors.values()), list(self._weights.values()), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Replace the weights by the averages while a block runs."""
        originals = {name: weight.clone() for name, weight in self._weights.items()}
        _copy(self.tensors, self._weights)
        try:
            yield
        finally:
            _copy(originals, self._weights)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore averages from a checkpoint."""
        _copy(tensors, self.tensors)


@torch.no_grad()
def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])
