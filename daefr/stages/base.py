"""The interface of a stage for the training loop."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from daefr.data.dataset import Batch, Part
from daefr.errors import UserError
from daefr.settings.base import StageName
from daefr.settings.network import NetworkConfig

Average = Callable[[Tensor], Tensor]
"""Averages a tensor over all ranks."""


@dataclass(frozen=True)
class Loss:
    """A loss: `total` for the backward pass, and its terms and other scalars by name, detached, for logging."""

    total: Tensor
    terms: dict[str, Tensor]


class Stage(nn.Module, ABC):
    """A training stage: its networks and losses.

    In each step, the loop calls `generator`, possibly wrapped for distributed training, and `generator_loss` on its
    output; if the stage is adversarial at that step, likewise `discriminator`.
    """

    parts: tuple[Part, ...]
    compares_samples = False
    """Whether the loss of a sample depends on the others in its batch."""
    generator: nn.Module
    discriminator: nn.Module | None

    def __init__(self, name: StageName, network: NetworkConfig) -> None:
        super().__init__()
        self.name, self.network = name, network

    @abstractmethod
    def generator_input(self, batch: Batch) -> Any:
        """Return the input of `generator`."""

    @abstractmethod
    def generator_loss(self, output: Any, batch: Batch, *, adversarial: bool, average: Average) -> Loss:
        """Return the loss of the output of `generator`."""

    @abstractmethod
    def pictures(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        """Return the columns of an image grid for logging, by title: (B, 3, R, R) in [-1, 1]."""

    @abstractmethod
    def code_indices(self, output: Any) -> dict[str, Tensor]:
        """Return the codes that the output uses, by the name of their codebook (empty if there is only one)."""

    def is_adversarial(self, step: int) -> bool:  # noqa: ARG002
        """Return whether a discriminator is trained at `step`."""
        return False

    def discriminator_input(self, output: Any, batch: Batch) -> tuple[Any, ...]:
        """Return the input of `discriminator`, detached from the generator's graph."""
        raise NotImplementedError(f"{self.name} has no discriminator")

    def discriminator_loss(self, scores: Any) -> Loss:
        """Return the loss of the output of `discriminator`."""
        raise NotImplementedError(f"{self.name} has no discriminator")

    def before_training(self, batch: Batch, seed: int) -> None:
        """Initialize with the first batch of the training, identically on every rank."""

    def after_step(self, step: int, output: Any, indices: dict[str, Tensor], seed: int) -> None:
        """Update after a step of the optimizers, identically on every rank.

        `output` is that of the last micro-batch; `indices` are the `code_indices` of the batch.
        """

    def weights(self) -> dict[str, Tensor]:
        """Return the tensors for a checkpoint, by name, each of them once."""
        return {
            name: tensor
            for name, tensor in self.state_dict().items()
            if name.startswith(("generator.", "discriminator.", "target."))
        }

    def load_weights(self, tensors: dict[str, Tensor], source: str) -> None:
        """Load every tensor of `weights`.

        Raises `UserError` with the name of a tensor that is missing, unknown or of another shape.
        """
        mine = self.weights()
        for problem, names in (("lacks", mine.keys() - tensors.keys()), ("has unknown", tensors.keys() - mine.keys())):
            if names:
                raise UserError(f"{source} {problem} {len(names)} tensors of {self.name}, such as {min(names)}")
        for name, tensor in mine.items():
            if tensor.shape != tensors[name].shape:
                raise UserError(f"{source}: {name} is {tuple(tensors[name].shape)}, not {tuple(tensor.shape)}")
            tensor.copy_(tensors[name])
