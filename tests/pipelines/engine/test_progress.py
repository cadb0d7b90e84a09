"""What stands on the progress between a training and its driver."""

import time

from pipelines.engine.progress import ProgressActor


def test_a_training_that_begins_anew_counts_from_when_work_was_last_seen() -> None:
    progress = ProgressActor()
    created = progress.mark_started(None)
    time.sleep(0.01)
    progress.update(10, "")
    seen = progress.mark_started(None)  # other workers, without a loss: the cluster has grown
    assert created < seen <= time.time()
    time.sleep(0.01)
    progress.mark_stopped("a worker died")
    assert seen < progress.mark_started(None) <= time.time()


def test_what_was_held_is_known_after_the_loss() -> None:
    progress = ProgressActor()
    progress.mark_started("two CPUs")
    progress.mark_stopped("a worker died")
    snapshot = progress.snapshot()
    assert (snapshot.is_running, snapshot.placement, snapshot.lines) == (False, "two CPUs", ["a worker died"])
    assert progress.snapshot().lines == []
