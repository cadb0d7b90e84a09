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
from daefr.speed import autocast
from daefr.stages.base import Loss
from daefr.training.clock import Clock
from daefr.training.finite import FiniteCheck, NetworkLosses
from daefr.training.state import TrainingState


@dataclass(frozen=True)
class Step:
    """The results of a step, all of them on the device."""

    output: Any
    """The generator's, of the last part."""
    indices: dict[str, Tensor]
    """The codes that were used, by codebook."""
    terms: dict[str, Tensor]
    """Every scalar worth logging, averaged over the parts."""


class Optimization:
    """Takes optimizer steps: one forward pass of each part of a batch, and its losses' backward passes.

    On a GPU, the host only gives out work and waits for none of it: see `FiniteCheck`.
    """

    def __init__(
        self, state: TrainingState, device: torch.device, clock: Clock | None = None, *, check_later: bool | None = None
    ) -> None:
        """Wrap the stage's networks for distributed training.

        With `check_later`, by default on a GPU, a loss that is not finite raises at the next step or in `check_finite`.
        """
        self._state, self._device, self._clock = state, device, clock or Clock(device)
        self._networks = {
            name: ranks.wrap(module, device, self._clock.exchange)
            for name, module in (("generator", state.stage.generator), ("discriminator", state.stage.discriminator))
            if module is not None
        }
        self._losses: dict[str, NetworkLosses] = {}
        self._check_later = device.type == "cuda" if check_later is None else check_later
        self._finite = FiniteCheck(state.stage.name, later=self._check_later)

    def step(self, *parts: Batch) -> tuple[Any, dict[str, Tensor]]:
        """Train on one batch; return the generator's output of the last part, and the scalars."""
        taken = self.compute_gradients(parts)
        self.apply(taken)
        return taken.output, taken.terms

    def compute_gradients(self, parts: Sequence[Batch]) -> Step:
        """Compute the gradients of one batch, given in equal parts, for every network that is trained at this step."""
        stage, adversarial = self._state.stage, self._state.stage.is_adversarial(self._state.step)
        names = self._networks if adversarial else ("generator",)
        self._losses = {name: NetworkLosses([], defaultdict(list)) for name in names}
        for name in self._losses:
            self._state.optimizers[name].zero_grad(set_to_none=True)
        indices: dict[str, list[Tensor]] = defaultdict(list)
        output = None
        for number, part in enumerate(parts, 1):
            # the ranks exchange the gradients of all parts at once, with the last
            with self._without_exchange() if number < len(parts) else nullcontext():
                output = self._compute_part(part, 1 / len(parts))
            for name, used in stage.code_indices(output).items():
                indices[name].append(used)
        terms = {
            name: torch.stack(values).mean()
            for losses in self._losses.values()
            for name, values in losses.terms.items()
        }
        terms["loss"] = torch.stack(self._losses["generator"].totals).mean()
        return Step(output, {name: torch.cat(used) for name, used in indices.items()}, terms)

    def _compute_part(self, images: Batch, share: float) -> Any:
        stage, precision = self._state.stage, autocast(self._state.training.speed, self._device)
        adversarial = "discriminator" in self._losses
        with self._clock("forward"), precision:
            output = self._networks["generator"](stage.generator_input(images))
            loss = stage.generator_loss(output, images, adversarial=adversarial, average=ranks.average)
        self._backward("generator", loss, share)
        if adversarial:
            with self._clock("forward"), precision:
                scores = self._networks["discriminator"](*stage.discriminator_input(output, images))
                loss = stage.discriminator_loss(scores)
            self._backward("discriminator", loss, share)
        return output

    def _backward(self, name: str, loss: Loss, share: float) -> None:
        with self._clock("backward"):
            torch.autograd.backward(loss.total * share)
        self._losses[name].add(loss)

    def apply(self, taken: Step) -> None:
        """Let the optimizers step on the gradients, clipped if the settings say so.

        No optimizer steps on what is not finite. Raises `NonFiniteLossError`, on all ranks: for this step, or where
        the check comes later, for the step before.
        """
        state, training = self._state, self._state.training
        with self._clock("optimizer"):
            gradients = {name: _parameters(state.optimizers[name]) for name in self._losses}
            norms = {
                name: torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
                for name, parameters in gradients.items()
            }
            found = self._finite.examine(state.step + 1, self._losses, norms.values())
            for name, parameters in gradients.items():
                if training.max_grad_norm:
                    torch.nn.utils.clip_grads_with_norm_(parameters, training.max_grad_norm, norms[name])
                for group in state.optimizers[name].param_groups:
                    group["lr"] = training.learning_rate_at(state.step)
                if self._check_later:
                    # as GradScaler does: fused optimizers skip the step on the device where this is 1
                    state.optimizers[name].found_inf = found  # type: ignore[attr-defined]
                state.optimizers[name].step()
            state.step += 1
            if state.average is not None:
                state.average.update(state.step)
        for name, norm in norms.items():
            taken.terms["gradient_norm" if name == "generator" else f"{name}_gradient_norm"] = norm

    def check_finite(self) -> None:
        """Wait for the last step, and raise `NonFiniteLossError` unless it was finite.

        To be called, on every rank, before anything of the training is reported, validated or saved.
        """
        self._finite.raise_if_found()

    @contextmanager
    def _without_exchange(self) -> Iterator[None]:
        """Keep gradients on their rank while a block runs."""
        with ExitStack() as stack:
            for network in self._networks.values():
                if isinstance(network, DistributedDataParallel):
                    stack.enter_context(network.no_sync())
            yield


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
