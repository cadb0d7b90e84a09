"""The optimizer step of a stage, with gradient accumulation and on any number of ranks."""

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
class ComputedStep:
    """The results of a step, on the device."""

    output: Any
    """The generator's output for the last micro-batch."""
    indices: dict[str, Tensor]
    """The chosen codes, by codebook."""
    terms: dict[str, Tensor]
    """The scalars to log, averaged over the micro-batches."""


class Optimization:
    """Performs optimizer steps: a forward pass and the losses' backward passes for each micro-batch.

    On a GPU, the host does not wait for the device; see `FiniteCheck`.
    """

    def __init__(
        self, state: TrainingState, device: torch.device, clock: Clock | None = None, *, check_later: bool | None = None
    ) -> None:
        """Wrap the stage's networks for distributed training.

        With `check_later`, the default on a GPU, a non-finite loss raises in the next step or in `check_finite`.
        """
        self._state, self._device, self._clock = state, device, clock or Clock(device)
        self._networks = {
            name: ranks.wrap(module, device, self._clock.all_reduce)
            for name, module in (("generator", state.stage.generator), ("discriminator", state.stage.discriminator))
            if module is not None
        }
        self._losses: dict[str, NetworkLosses] = {}
        self._check_later = device.type == "cuda" if check_later is None else check_later
        self._finite = FiniteCheck(state.stage.name, later=self._check_later)

    def step(self, *micro_batches: Batch) -> tuple[Any, dict[str, Tensor]]:
        """Train on one batch; return the generator's output for the last micro-batch, and the scalars."""
        result = self.compute_gradients(micro_batches)
        self.apply(result)
        return result.output, result.terms

    def compute_gradients(self, micro_batches: Sequence[Batch]) -> ComputedStep:
        """Compute the gradients of one batch, given as equal micro-batches, for every network trained at this step."""
        stage, adversarial = self._state.stage, self._state.stage.is_adversarial(self._state.step)
        names = self._networks if adversarial else ("generator",)
        self._losses = {name: NetworkLosses([], defaultdict(list)) for name in names}
        for name in self._losses:
            self._state.optimizers[name].zero_grad(set_to_none=True)
        indices: dict[str, list[Tensor]] = defaultdict(list)
        output = None
        for number, micro_batch in enumerate(micro_batches, 1):
            # gradients are reduced over the ranks once, with the last micro-batch
            with self._no_sync() if number < len(micro_batches) else nullcontext():
                output = self._compute(micro_batch, 1 / len(micro_batches))
            for name, chosen in stage.code_indices(output).items():
                indices[name].append(chosen)
        terms = {
            name: torch.stack(values).mean()
            for losses in self._losses.values()
            for name, values in losses.terms.items()
        }
        terms["loss"] = torch.stack(self._losses["generator"].totals).mean()
        return ComputedStep(output, {name: torch.cat(chosen) for name, chosen in indices.items()}, terms)

    def _compute(self, images: Batch, weight: float) -> Any:
        stage, precision = self._state.stage, autocast(self._state.training.speed, self._device)
        adversarial = "discriminator" in self._losses
        with self._clock("forward"), precision:
            output = self._networks["generator"](stage.generator_input(images))
            loss = stage.generator_loss(output, images, adversarial=adversarial, average=ranks.average)
        self._backward("generator", loss, weight)
        if adversarial:
            with self._clock("forward"), precision:
                scores = self._networks["discriminator"](*stage.discriminator_input(output, images))
                loss = stage.discriminator_loss(scores)
            self._backward("discriminator", loss, weight)
        return output

    def _backward(self, name: str, loss: Loss, weight: float) -> None:
        with self._clock("backward"):
            torch.autograd.backward(loss.total * weight)
        self._losses[name].add(loss)

    def apply(self, result: ComputedStep) -> None:
        """Clip the gradients, if configured, and step the optimizers unless a value is not finite.

        Raises `NonFiniteLossError` on all ranks, for this step, or with `check_later` for the previous one.
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
                    # like GradScaler: fused optimizers skip the step on the device if this is 1
                    state.optimizers[name].found_inf = found  # type: ignore[attr-defined]
                state.optimizers[name].step()
            state.step += 1
            if state.average is not None:
                state.average.update(state.step)
        for name, norm in norms.items():
            result.terms["gradient_norm" if name == "generator" else f"{name}_gradient_norm"] = norm

    def check_finite(self) -> None:
        """Wait for the last step, and raise `NonFiniteLossError` if it was not finite.

        Every rank must call it before reporting, validating or saving.
        """
        self._finite.raise_if_found()

    @contextmanager
    def _no_sync(self) -> Iterator[None]:
        """Do not reduce gradients over the ranks while the block runs."""
        with ExitStack() as stack:
            for network in self._networks.values():
                if isinstance(network, DistributedDataParallel):
                    stack.enter_context(network.no_sync())
            yield


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
