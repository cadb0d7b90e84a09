"""Detects non-finite losses and gradients without host synchronization, before an optimizer uses them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from daefr import ranks
from daefr.stages.base import Loss
from daefr.training.errors import NonFiniteLossError


@dataclass(frozen=True)
class NetworkLosses:
    """One network's losses in a step: totals and terms, one of each per micro-batch."""

    totals: list[Tensor]
    terms: dict[str, list[Tensor]]

    def add(self, loss: Loss) -> None:
        """Add the loss of one micro-batch."""
        self.totals.append(loss.total.detach())
        for name, term in loss.terms.items():
            self.terms[name].append(term)


@dataclass(frozen=True)
class _Examined:
    step: int
    losses: Mapping[str, NetworkLosses]
    flag: "_HostCopy"


class FiniteCheck:
    """Examines every step; with `later`, the host reads the result of a step during the next one.

    Fused optimizers with the result as `found_inf` skip the step on the device, so a non-finite step that is detected
    later has not changed weights or moments. Call `raise_if_found` before reporting, validating or saving anything.
    """

    def __init__(self, stage: str, *, later: bool) -> None:
        """Examine the steps of a stage, which errors name."""
        self._stage, self._later = stage, later
        self._examined: _Examined | None = None

    def examine(self, step: int, losses: Mapping[str, NetworkLosses], norms: Iterable[Tensor]) -> Tensor:
        """Return a float32 scalar on the device, equal on all ranks: 1 if any value is not finite, otherwise 0.

        Args:
            step: its number, from 1.
            losses: of this rank, by network.
            norms: of the networks' gradients, which are averaged over the ranks already.

        Raises:
            NonFiniteLossError: for the previous step, or without `later` for this one.

        """
        self.raise_if_found()
        totals = torch.stack([total for network in losses.values() for total in network.totals])
        found = (~torch.isfinite(ranks.average(totals.sum()) + sum(norms))).float()
        self._examined = _Examined(step, losses, _HostCopy(found))
        if not self._later:
            self.raise_if_found()
        return found

    def raise_if_found(self) -> None:
        """Raise `NonFiniteLossError` on all ranks if the last examined step was not finite, naming the terms."""
        examined, self._examined = self._examined, None
        if examined is None or not examined.flag.read():
            return
        own_terms = next(filter(None, map(_not_finite, examined.losses.values())), [])
        terms = [term for rank_terms in ranks.gather(own_terms) for term in rank_terms]
        what = ", ".join(terms) or "the gradients, although every term is finite"
        raise NonFiniteLossError(f"{self._stage}: NaN or infinity at step {examined.step}: {what}")


class _HostCopy:
    """An asynchronous copy of a scalar from a device to the host."""

    def __init__(self, scalar: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if scalar.is_cuda:
            self._copy = torch.empty((), dtype=scalar.dtype, pin_memory=True)
            self._copy.copy_(scalar, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()
        else:
            self._copy = scalar

    def read(self) -> bool:
        """Wait for the copy, but not for later work of the device."""
        if self._event is not None:
            self._event.synchronize()
        return bool(self._copy)


def _not_finite(losses: NetworkLosses) -> list[str]:
    return [
        f"{name} on rank {ranks.rank()}"
        for name, values in losses.terms.items()
        if not all(torch.isfinite(value) for value in values)
    ]
