"""What the training loop knows of a stage."""

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
    """A loss: `total` is what is differentiated, `terms` its parts and other scalars by name, detached, for the log."""

    total: Tensor
    terms: dict[str, Tensor]


class Stage(nn.Module, ABC):
    """One stage: the networks it trains and the losses they are trained with.

    The loop calls `generator` once a step, possibly wrapped for distributed training, then `generator_loss` on its
    output; where the stage is adversarial at that step, the same for `discriminator`.
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
        """Return what `generator` is called with."""

    @abstractmethod
    def generator_loss(self, output: Any, batch: Batch, *, adversarial: bool, average: Average) -> Loss:
        """Return the loss of what `generator` returned."""

    @abstractmethod
    def pictures(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        """Return columns for people to look at, by title: (B, 3, R, R) in [-1, 1]."""

    @abstractmethod
    def code_indices(self, output: Any) -> dict[str, Tensor]:
        """Return the codes that the output uses, by the name of their codebook (empty where there is only one)."""

    def is_adversarial(self, step: int) -> bool:  # noqa: ARG002  # an answer by default
        """Tell whether a discriminator takes part at `step`."""
        return False

    def discriminator_input(self, output: Any, batch: Batch) -> tuple[Any, ...]:
        """Return what `discriminator` is called with, cut off from the generator's graph."""
        raise NotImplementedError(f"{self.name} has no discriminator")

    def discriminator_loss(self, scores: Any) -> Loss:
        """Return the loss of what `discriminator` returned."""
        raise NotImplementedError(f"{self.name} has no discriminator")

    def before_training(self, batch: Batch, seed: int) -> None:
        """Prepare with the first batch of the whole training; every rank must come to the same."""

    def after_step(self, step: int, output: Any, indices: dict[str, Tensor], seed: int) -> None:
        """Do what is due once the optimizers have stepped; every rank must come to the same.

        `output` is that of the batch's last part, `indices` are the `code_indices` of the whole batch.
        """

    def weights(self) -> dict[str, Tensor]:
        """Return what a checkpoint holds, by name; no tensor twice."""
        return {
            name: tensor
            for name, tensor in self.state_dict().items()
            if name.startswith(("generator.", "discriminator.", "target."))
        }

    def load_weights(self, tensors: dict[str, Tensor], source: str) -> None:
        """Fill in every tensor of `weights`.

        Raises `UserError` with the name of the first tensor that is missing, unknown or of another shape.
        """
        mine = self.weights()
        for problem, names in (("lacks", mine.keys() - tensors.keys()), ("has unknown", tensors.keys() - mine.keys())):
            if names:
                raise UserError(f"{source} {problem} {len(names)} tensors of {self.name}, such as {min(names)}")
        for name, tensor in mine.items():
            if tensor.shape != tensors[name].shape:
                raise UserError(f"{source}: {name} is {tuple(tensors[name].shape)}, not {tuple(tensor.shape)}")
            tensor.copy_(tensors[name])
