"""When a training saves checkpoints, and how long that takes."""

import time
from pathlib import Path

from daefr import ranks
from daefr.training.reporter import Reporter, Save
from daefr.training.state import TrainingState


class Saving:
    """Passes checkpoints to the reporter: copies of the training state, written while training continues."""

    def __init__(self, state: TrainingState, reporter: Reporter) -> None:
        """Start the timer of `checkpoint_every_n_minutes`."""
        self._state, self._reporter = state, reporter
        self._last = time.monotonic()
        self._costs: dict[str, float] = {}

    def is_due(self) -> bool:
        """Return whether a checkpoint is due by rank 0's clock."""
        minutes = self._state.training.checkpoint_every_n_minutes
        return minutes is not None and ranks.rank() == 0 and time.monotonic() - self._last >= 60 * minutes

    def __call__(self) -> None:
        """Save a checkpoint. Every rank must call it at the same step."""
        start = time.monotonic()
        save = self._timed(self._state.snapshot()) if ranks.rank() == 0 else _not_rank_0
        self._reporter.checkpoint(self._state.step, save)
        self._last = time.monotonic()
        self._costs["checkpoint_wait_seconds"] = self._last - start

    def flush(self) -> dict[str, float]:
        """Return the metrics of checkpoints since the last call: seconds of waiting and of writing, and size."""
        costs, self._costs = self._costs, {}
        return costs

    def finish(self) -> None:
        """Wait until all checkpoints are stored, and report the remaining metrics."""
        self._reporter.finish()
        costs = self.flush()
        if costs and ranks.rank() == 0:
            self._reporter.metrics(self._state.step, costs)

    def _timed(self, write: Save) -> Save:
        def save(directory: Path) -> None:
            start = time.monotonic()
            write(directory)
            size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
            self._costs |= {"checkpoint_write_seconds": time.monotonic() - start, "checkpoint_megabytes": size / 1e6}

        return save


def _not_rank_0(directory: Path) -> None:
    raise RuntimeError(f"only rank 0 writes checkpoints, not rank {ranks.rank()}: {directory}")
