"""The parts of a report: published results, ranking, and charts."""

import re

import numpy as np
import pytest

from pipelines.evaluate.report.charts import HEIGHT, WIDTH, code_usage, histogram
from pipelines.evaluate.report.comparison import Row, rank
from pipelines.evaluate.report.published import PublishedTable, published


def test_published_tables_have_the_metrics_and_methods_of_the_paper() -> None:
    tables = published().benchmarks
    assert set(tables) == {"celeba-test", "lfw-test", "wider-test", "briar-test"}
    assert tables["celeba-test"].metrics == ["fid", "lpips", "niqe", "ida", "lmd", "psnr", "ssim"]
    for table in tables.values():
        assert next(iter(table.rows)) == "Input"
        assert len(table.rows) == 9
    assert tables["celeba-test"].rows["DAEFR"] == [52.056, 0.388, 4.477, 1.071, 5.634, 19.919, 0.553]
    assert tables["lfw-test"].rows["DAEFR"] == [47.532, 3.552]
    with pytest.raises(ValueError, match="DAEFR"):
        PublishedTable(metrics=["fid", "niqe"], rows={"DAEFR": [1.0]})


def test_best_values_follow_the_direction_of_each_metric() -> None:
    rows = [
        Row("paper", "published", {"psnr": 50.0, "niqe": 1.0}),
        Row("Input", "input", {"psnr": 40.0, "niqe": 2.0}),
        Row("old", "champion", {"psnr": 20.0, "niqe": 3.0}),
        Row("new", "candidate", {"psnr": 21.0, "niqe": 4.0, "ssim": 0.5}),
    ]
    assert {row.label: row.best for row in rank(rows)} == {
        "paper": set(),
        "Input": set(),
        "old": {"niqe"},
        "new": {"psnr"},
    }


def test_charts_stay_within_their_frame() -> None:
    rng = np.random.default_rng(0)
    for values in (rng.normal(0, 1, 500), [3.0], [2.0, 2.0], [1e-9, 1e9, float("inf")], [-1e6, 1e6]):
        drawn = str(histogram({"restored": values, "champion": [1.0, float("nan")]}))
        for path in re.findall(r' d="([^"]+)"', drawn):
            numbers = [tuple(map(float, point.split(","))) for point in re.findall(r"[\d.-]+,[\d.-]+", path)]
            assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in numbers)
    assert histogram({"restored": [float("nan")]}) == ""
    assert code_usage([0, 0]) == ""
    assert "maximum: 7<" in code_usage([0, 7, 1])


def test_charts_escape_the_names_of_their_series() -> None:
    assert "<b>" not in histogram({"<b>": [1.0, 2.0]})
