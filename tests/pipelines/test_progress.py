"""What stands on the board between a training and its driver."""

import time

from pipelines.engine.progress import Board


def test_a_training_that_begins_anew_counts_from_when_work_was_last_seen() -> None:
    board = Board()
    created = board.begin(None)
    time.sleep(0.01)
    board.write(10, "")
    seen = board.begin(None)  # other workers, without a loss: the cluster has grown
    assert created < seen <= time.time()
    time.sleep(0.01)
    board.lose("a worker died")
    assert seen < board.begin(None) <= time.time()


def test_what_was_held_is_known_after_the_loss() -> None:
    board = Board()
    board.begin("two CPUs")
    board.lose("a worker died")
    reading = board.read()
    assert (reading.running, reading.held, reading.lines) == (False, "two CPUs", ["a worker died"])
    assert board.read().lines == []
