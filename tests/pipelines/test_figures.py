"""The Parquet file of an evaluation: what is read of it, and how two are put side by side."""

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from daefr.evaluation import column
from pipelines.evaluate.figures import FIGURES, read_figures, schema

PSNR = column("psnr", "restored")


def _write(folder: Path, figures: dict[tuple[str, str], float | None]) -> Path:
    folder.mkdir()
    rows = [{"benchmark": benchmark, "image": image, PSNR: value} for (benchmark, image), value in figures.items()]
    pq.write_table(pa.Table.from_pylist(rows, schema([PSNR])), folder / FIGURES)
    return folder


def test_figures_are_those_of_one_benchmark_and_nan_where_there_are_none(tmp_path: Path) -> None:
    folder = _write(tmp_path / "one", {("lfw", "a"): 1.0, ("lfw", "b"): None, ("wider", "a"): 3.0})
    found = read_figures(folder, "lfw", [PSNR, "fid/restored"])
    assert found["a"][PSNR] == 1
    assert math.isnan(found["b"][PSNR])
    assert math.isnan(found["a"]["fid/restored"])
    assert set(found) == {"a", "b"}
