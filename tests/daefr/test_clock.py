"""Where the time of a step goes, and the picture of a codebook's use."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from daefr.training.clock import Clock
from daefr.training.histogram import BAR, HEIGHT, TITLE, WIDTH, draw_usage
from daefr.training.loop import train
from daefr.training.reporter import FolderReporter
from tests.daefr import tiny


def test_overlapping_spans_count_once() -> None:
    clock = Clock(torch.device("cpu"))
    start = time.perf_counter()
    with clock("backward"), clock("backward"):
        time.sleep(0.05)
    with clock("forward"):
        pass
    longest = time.perf_counter() - start
    spent = clock.flush()
    assert 0.05 <= spent["backward"] <= longest
    assert 0 <= spent["forward"] < 0.05
    assert clock.flush() == {}


def test_the_parts_of_a_step_are_told(dataset: Path, tmp_path: Path) -> None:
    reporter = FolderReporter(tmp_path)
    train(tiny.build("hq_codebook"), tiny.settings("hq_codebook"), dataset, reporter)
    for values in (told for _, told in reporter.history if "loss" in told):
        parts = [values[f"{phase}_seconds"] for phase in ("data", "forward", "backward", "optimizer")]
        assert all(part > 0 for part in parts)
        assert sum(parts) <= values["step_seconds"]
        assert values["samples_per_second"] == pytest.approx(4 / values["step_seconds"], rel=1e-6)
        assert values["memory_megabytes"] > 10
        assert values["cores_in_use"] > 0


def test_the_picture_of_a_codebook_shows_how_many_codes_are_used() -> None:
    counts = torch.zeros(256, dtype=torch.int64)
    counts[10:74] = 5
    picture = draw_usage({"hq": counts, "lq": torch.ones(256, dtype=torch.int64)})
    assert picture.shape == (2 * (TITLE + HEIGHT), WIDTH, 3)
    assert picture.dtype == np.uint8
    lowest = (picture[TITLE + HEIGHT - 1] == BAR).all(axis=1)
    assert lowest.sum() == WIDTH // 4, "a quarter of the codes is used"
    assert (picture[-1] == BAR).all()
