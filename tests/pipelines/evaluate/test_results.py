"""The Parquet file of an evaluation."""

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from daefr.evaluation import column
from pipelines.evaluate.results import METRICS_FILE, Summary, load_summary, metrics_schema, read_image_metrics

PSNR = column("psnr", "restored")


@pytest.mark.parametrize("file", [METRICS_FILE, "figures.parquet"])
def test_metrics_of_one_benchmark_are_read_with_nan_for_missing_values(tmp_path: Path, file: str) -> None:
    values = {("lfw", "a"): 1.0, ("lfw", "b"): None, ("wider", "a"): 3.0}
    rows = [{"benchmark": benchmark, "image": image, PSNR: value} for (benchmark, image), value in values.items()]
    pq.write_table(pa.Table.from_pylist(rows, metrics_schema([PSNR])), tmp_path / file)
    found = read_image_metrics(tmp_path, "lfw", [PSNR, "fid/restored"])
    assert found["a"][PSNR] == 1
    assert math.isnan(found["b"][PSNR])
    assert math.isnan(found["a"]["fid/restored"])
    assert set(found) == {"a", "b"}


def test_summaries_of_older_runs_are_read() -> None:
    benchmark = {"images": 1, "measured": 1, "missing": 0, "failed": 0}
    outputs = {"protocol": "paper", "codebook": None}
    results = {"restored": {"psnr": {"value": 1.0}}}
    older = {"subject": "model", "benchmarks": {"lfw": {**benchmark, "figures": results}}, **outputs}
    current = {"target": "model", "benchmarks": {"lfw": {**benchmark, "metrics": results}}, **outputs}
    assert load_summary(older) == Summary.model_validate(current)
