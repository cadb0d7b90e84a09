"""One optimizer step of a stage, of any number of parts of its batch and on any number of ranks."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from daefr import ranks
from daefr.data.dataset import Batch
from daefr.stages.base import Loss
from daefr.training.clock import Clock
from daefr.training.errors import NonFiniteLossError
from daefr.training.state import TrainingState


@dataclass(frozen=True)
class Step:
    """What a step leaves to look at, all of it on the device."""

    output: Any
    """The generator's, of the last part."""
    indices: dict[str, Tensor]
    """The codes that were used, by codebook."""
    terms: dict[str, Tensor]
    """Every scalar worth logging, averaged over the parts."""


@dataclass(frozen=True)
class Turn:
    """One network's part in a step: the totals and terms of its losses, one a part of the batch."""

    totals: list[Tensor]
    terms: dict[str, list[Tensor]]

    def add(self, loss: Loss) -> None:
        """Take note of the loss of one part."""
        self.totals.append(loss.total.detach())
        for name, term in loss.terms.items():
            self.terms[name].append(term)


class Optimization:
    """Takes optimizer steps: one forward pass of each part of a batch, and its losses' backward passes."""

    def __init__(self, state: TrainingState, device: torch.device, clock: Clock | None = None) -> None:
        """Wrap the stage's networks for distributed training."""
        self._state, self._device, self._clock = state, device, clock or Clock(device)
        self._networks = {
            name: ranks.wrap(module, device, self._clock.exchange)
            for name, module in (("generator", state.stage.generator), ("discriminator", state.stage.discriminator))
            if module is not None
        }
        self._turns: dict[str, Turn] = {}

    def step(self, *parts: Batch) -> tuple[Any, dict[str, Tensor]]:
        """Train on one batch; return the generator's output of the last part, and the scalars."""
        taken = self.differentiate(parts)
        self.apply(taken)
        return taken.output, taken.terms

    def differentiate(self, parts: Sequence[Batch]) -> Step:
        """Compute the gradients of one batch, given in equal parts, for every network whose turn it is."""
        stage, adversarial = self._state.stage, self._state.stage.is_adversarial(self._state.step)
        names = self._networks if adversarial else ("generator",)
        self._turns = {name: Turn([], defaultdict(list)) for name in names}
        for name in self._turns:
            self._state.optimizers[name].zero_grad()
        indices: dict[str, list[Tensor]] = defaultdict(list)
        output = None
        for number, part in enumerate(parts, 1):
            # the ranks exchange the gradients of all parts at once, with the last
            with self._alone() if number < len(parts) else nullcontext():
                output = self._differentiate_part(part, 1 / len(parts))
            for name, used in stage.code_indices(output).items():
                indices[name].append(used)
        terms = {
            name: torch.stack(values).mean() for turn in self._turns.values() for name, values in turn.terms.items()
        }
        terms["loss"] = torch.stack(self._turns["generator"].totals).mean()
        return Step(output, {name: torch.cat(used) for name, used in indices.items()}, terms)

    def _differentiate_part(self, images: Batch, share: float) -> Any:
        stage, autocast = self._state.stage, self._state.training.speed.autocast_on(self._device)
        adversarial = "discriminator" in self._turns
        with self._clock("forward"), autocast:
            output = self._networks["generator"](stage.generator_input(images))
            loss = stage.generator_loss(output, images, adversarial=adversarial, average=ranks.average)
        self._descend("generator", loss, share)
        if adversarial:
            with self._clock("forward"), autocast:
                scores = self._networks["discriminator"](*stage.discriminator_input(output, images))
                loss = stage.discriminator_loss(scores)
            self._descend("discriminator", loss, share)
        return output

    def _descend(self, name: str, loss: Loss, share: float) -> None:
        with self._clock("backward"):
            torch.autograd.backward(loss.total * share)
        self._turns[name].add(loss)

    def apply(self, taken: Step) -> None:
        """Let the optimizers step on the gradients, after clipping them where that is asked for.

        Raises `NonFiniteLossError`, on all ranks and before any optimizer steps, for what is not a finite number.
        """
        state, training = self._state, self._state.training
        with self._clock("optimizer"):
            gradients = {name: _parameters(state.optimizers[name]) for name in self._turns}
            norms = {
                name: torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
                for name, parameters in gradients.items()
            }
            self._check(norms)
            for name, parameters in gradients.items():
                if training.clip_gradient:
                    torch.nn.utils.clip_grads_with_norm_(parameters, training.clip_gradient, norms[name])
                for group in state.optimizers[name].param_groups:
                    group["lr"] = training.learning_rate_at(state.step)
                state.optimizers[name].step()
            state.step += 1
            if state.average is not None:
                state.average.update(state.step)
        for name, norm in norms.items():
            taken.terms["gradient_norm" if name == "generator" else f"{name}_gradient_norm"] = norm

    def _check(self, norms: dict[str, Tensor]) -> None:
        # the only wait for the device in a step; gradients are averages already, so all ranks find the same
        totals = torch.stack([total for turn in self._turns.values() for total in turn.totals])
        if not torch.isfinite(ranks.average(totals.sum()) + sum(norms.values())):
            mine = next(filter(None, (self._not_finite(turn) for turn in self._turns.values())), [])
            names = [name for part in ranks.gather(mine) for name in part]
            what = ", ".join(names) or "the gradients, while every term is finite"
            raise NonFiniteLossError(
                f"{self._state.stage.name}: not a finite number at step {self._state.step + 1}: {what}"
            )

    def _not_finite(self, turn: Turn) -> list[str]:
        return [
            f"{name} on rank {ranks.rank()}"
            for name, values in turn.terms.items()
            if not all(torch.isfinite(value) for value in values)
        ]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep gradients on their rank while a block runs."""
        with ExitStack() as stack:
            for network in self._networks.values():
                if isinstance(network, DistributedDataParallel):
                    stack.enter_context(network.no_sync())
            yield


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
