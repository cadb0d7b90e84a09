"""When a training saves itself, and what that costs."""

import time
from pathlib import Path

from daefr import ranks
from daefr.training.reporter import Reporter, Save
from daefr.training.state import TrainingState


class Saving:
    """Gives checkpoints to the reporter: copies of the training, which goes on while they are written."""

    def __init__(self, state: TrainingState, reporter: Reporter) -> None:
        """Begin to count the minutes."""
        self._state, self._reporter = state, reporter
        self._last = time.monotonic()
        self._costs: dict[str, float] = {}

    def is_time(self) -> bool:
        """Tell whether the wall clock asks for a checkpoint; that of rank 0 decides."""
        minutes = self._state.training.checkpoint_minutes
        return minutes is not None and ranks.rank() == 0 and time.monotonic() - self._last >= 60 * minutes

    def __call__(self) -> None:
        """Have a checkpoint kept. Every rank must call it at the same step."""
        start = time.monotonic()
        save = self._watch(self._state.snapshot()) if ranks.rank() == 0 else _save_elsewhere
        self._reporter.checkpoint(self._state.step, save)
        self._last = time.monotonic()
        self._costs["checkpoint_wait_seconds"] = self._last - start

    def flush(self) -> dict[str, float]:
        """Return what checkpoints have cost since the last call: seconds that training waited, and that they took."""
        costs, self._costs = self._costs, {}
        return costs

    def finish(self) -> None:
        """Wait until all checkpoints are kept, and report what is left to tell of them."""
        self._reporter.finish()
        costs = self.flush()
        if costs and ranks.rank() == 0:
            self._reporter.metrics(self._state.step, costs)

    def _watch(self, write: Save) -> Save:
        def save(directory: Path) -> None:
            start = time.monotonic()
            write(directory)
            size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
            self._costs |= {"checkpoint_write_seconds": time.monotonic() - start, "checkpoint_megabytes": size / 1e6}

        return save


def _save_elsewhere(directory: Path) -> None:
    raise RuntimeError(f"rank 0 writes the checkpoints, not rank {ranks.rank()}: {directory}")
