"""The collectives of a training; with one rank, all of them are no-ops."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import GradBucket  # type: ignore[attr-defined]

T = TypeVar("T")


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def total(tensor: Tensor) -> Tensor:
    """Return the sum over all ranks; the argument is left as it is."""
    if count() == 1:
        return tensor
    summed = tensor.clone()
    dist.all_reduce(summed)
    return summed


def average(tensor: Tensor) -> Tensor:
    """Return the mean over all ranks; the argument is left as it is."""
    return tensor if count() == 1 else total(tensor) / count()


def broadcast(tensor: Tensor) -> None:
    """Overwrite a tensor with rank 0's."""
    if count() > 1:
        dist.broadcast(tensor.data, src=0)


def gather(value: T) -> list[T]:
    """Return the values of all ranks, in their order."""
    if count() == 1:
        return [value]
    gathered: list[T] = [value] * count()
    dist.all_gather_object(gathered, value)
    return gathered


def concatenate(rows: Tensor) -> Tensor:
    """Return the rows of all ranks (R B, ...), in their order, from (B, ...) of each; gradients flow to all ranks."""
    if count() == 1:
        return rows
    gathered: Tensor = _Concatenate.apply(rows)
    return gathered


class _Concatenate(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        context.rows = len(rows)
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(count())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return total(gradient.contiguous())[rank() * context.rows :][: context.rows]


Exchange = Callable[[dist.ProcessGroup | None, GradBucket], torch.futures.Future[Tensor]]
"""Averages a bucket of gradients over the ranks."""


def wrap(module: torch.nn.Module, device: torch.device, exchange: Exchange | None = None) -> torch.nn.Module:
    """Make a module average its gradients over the ranks, through `exchange` if it is given."""
    if count() == 1:
        return module
    # each rank keeps its own BatchNorm statistics: a broadcast before every pass would undo the pass before
    wrapped = torch.nn.parallel.DistributedDataParallel(
        module,
        device_ids=[device] if device.type == "cuda" else None,
        broadcast_buffers=False,
        # gradients then take their memory once, not once more for the exchange
        gradient_as_bucket_view=True,
    )
    if exchange is not None:
        wrapped.register_comm_hook(None, exchange)
    return wrapped
