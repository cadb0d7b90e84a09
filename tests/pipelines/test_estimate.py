"""What a recipe takes is computed from operations that are counted without computing them."""

import json
import subprocess
import sys
from pathlib import Path

from daefr.profiling import Case, count_operations, uncompiled
from pipelines.config import load_config
from tests.e2e.command import ROOT, TINY


def test_the_estimate_counts_what_a_step_computes(tmp_path: Path) -> None:
    counts = tmp_path / "operations.json"
    command = [sys.executable, "-m", "infra.gpu.estimate", "--config", str(TINY), "--operations", str(counts)]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    counted = json.loads(counts.read_text())
    network = load_config(TINY).network
    for stage in ("hq_codebook", "restoration"):
        assert counted[stage]["flops"] == count_operations(uncompiled(Case(stage, network, batch=1)).prepare())
        assert stage in first.stdout
    faster = subprocess.run([*command, "--gpus", "16"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "counting" not in faster.stderr, "the counts are kept"
