"""Losses and gradients that are not finite: found without making the host wait, and never stepped on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from daefr import ranks
from daefr.stages.base import Loss
from daefr.training.errors import NonFiniteLossError


@dataclass(frozen=True)
class NetworkLosses:
    """One network's losses in a step: totals and terms, one of each per part of the batch."""

    totals: list[Tensor]
    terms: dict[str, list[Tensor]]

    def add(self, loss: Loss) -> None:
        """Record the loss of one part."""
        self.totals.append(loss.total.detach())
        for name, term in loss.terms.items():
            self.terms[name].append(term)


@dataclass(frozen=True)
class _Examined:
    step: int
    losses: Mapping[str, NetworkLosses]
    flag: "_HostCopy"


class FiniteCheck:
    """Examines every step; with `later`, the host looks at a step's result during the next one.

    Optimizers that are given the result of `examine` as `found_inf` leave weights and moments of such a step as they
    are, on the device itself. So a step that is found late has changed neither; what must not come after it (reports,
    validation, checkpoints) calls `raise_if_found` before.
    """

    def __init__(self, stage: str, *, later: bool) -> None:
        """Examine the steps of a stage; errors name it."""
        self._stage, self._later = stage, later
        self._examined: _Examined | None = None

    def examine(self, step: int, losses: Mapping[str, NetworkLosses], norms: Iterable[Tensor]) -> Tensor:
        """Return a float32 scalar on the device, the same on all ranks: 1 where a number is not finite, 0 otherwise.

        Args:
            step: its number, from 1.
            losses: of this rank, by network.
            norms: of the networks' gradients, which are averages over the ranks already.

        Raises:
            NonFiniteLossError: for the step before, or without `later` for this one.

        """
        self.raise_if_found()
        totals = torch.stack([total for network in losses.values() for total in network.totals])
        found = (~torch.isfinite(ranks.average(totals.sum()) + sum(norms))).float()
        self._examined = _Examined(step, losses, _HostCopy(found))
        if not self._later:
            self.raise_if_found()
        return found

    def raise_if_found(self) -> None:
        """Raise `NonFiniteLossError`, on all ranks, naming the terms and the step that was examined last."""
        examined, self._examined = self._examined, None
        if examined is None or not examined.flag.read():
            return
        mine = next(filter(None, map(_not_finite, examined.losses.values())), [])
        names = [name for part in ranks.gather(mine) for name in part]
        what = ", ".join(names) or "the gradients, while every term is finite"
        raise NonFiniteLossError(f"{self._stage}: not a finite number at step {examined.step}: {what}")


class _HostCopy:
    """A scalar on its way from a device to the host."""

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
        """Wait for the copy alone, not for what the device was given to do after it."""
        if self._event is not None:
            self._event.synchronize()
        return bool(self._copy)


def _not_finite(losses: NetworkLosses) -> list[str]:
    return [
        f"{name} on rank {ranks.rank()}"
        for name, values in losses.terms.items()
        if not all(torch.isfinite(value) for value in values)
    ]
