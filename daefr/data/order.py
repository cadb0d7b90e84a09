"""In which order a training sees its samples: a pure function of the seed and the position, so nothing to be saved.

The samples of all epochs form one endless sequence. Step s with a global batch of B takes positions s·B to s·B + B - 1,
and every rank its own equal part of them. A training continued at step s, with any number of ranks, therefore sees
exactly what it would have seen, and no sample of an epoch is lost or seen twice.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Position(NamedTuple):
    """One sample of the sequence: the epoch, the shard's number and the sample's number within it."""

    epoch: int
    shard: int
    sample: int


class EpochOrder:
    """The order of one epoch: shards shuffled, then samples within a window of some shards.

    The window bounds how many shards are in use at a time, whatever the size of the dataset.
    """

    def __init__(self, sizes: Sequence[int], seed: int, epoch: int, window: int) -> None:
        """Order shards of `sizes` samples each; `window` is the number of shards that are mixed."""
        self._sizes, self._seed, self._epoch, self._window = np.asarray(sizes), seed, epoch, window
        self._shards = np.random.default_rng([seed, epoch]).permutation(len(sizes))
        self._starts = np.concatenate([[0], np.cumsum(self._sizes[self._shards])])
        self._current: tuple[int, npt.NDArray[np.int64]] = (-1, np.empty((0, 2), np.int64))

    def __getitem__(self, position: int) -> Position:
        """Return what stands at `position` of this epoch."""
        window = int(np.searchsorted(self._starts, position, side="right") - 1) // self._window
        if window != self._current[0]:
            self._current = (window, self._shuffle(window))
        shard, sample = self._current[1][position - self._starts[window * self._window]]
        return Position(self._epoch, int(shard), int(sample))

    def _shuffle(self, window: int) -> npt.NDArray[np.int64]:
        shards = self._shards[window * self._window : (window + 1) * self._window]
        pairs = np.array([(shard, sample) for shard in shards for sample in range(self._sizes[shard])])
        return np.random.default_rng([self._seed, self._epoch, window]).permutation(pairs)


class BatchOrder:
    """The batches of one rank from a step on, without end: an iterable of lists of positions."""

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        seed: int,
        batch: int,
        rank: int = 0,
        ranks: int = 1,
        step: int = 0,
        window: int = 16,
    ) -> None:
        """Divide global batches of `batch` samples over `ranks`; raises `ValueError` when they do not divide evenly."""
        if batch % ranks:
            raise ValueError(f"a global batch of {batch} samples does not divide over {ranks} workers")
        self._sizes = [int(size) for size in sizes]
        self._seed, self._batch, self._window = seed, batch, window
        self._rank, self._ranks, self._step = rank, ranks, step

    def __iter__(self) -> Iterator[list[Position]]:
        """Yield this rank's part of every global batch."""
        total, part = sum(self._sizes), self._batch // self._ranks
        order = EpochOrder(self._sizes, self._seed, 0, self._window)
        epoch = 0
        step = self._step
        while True:
            start = step * self._batch + self._rank * part
            batch = []
            for position in range(start, start + part):
                if position // total != epoch:
                    epoch = position // total
                    order = EpochOrder(self._sizes, self._seed, epoch, self._window)
                batch.append(order[position % total])
            yield batch
            step += 1
