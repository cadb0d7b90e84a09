"""`python -m daefr gpu-check`: the same checks as on a GPU, on a CPU and narrow networks; and how checks are run."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from daefr.cli import main
from daefr.errors import UserError
from daefr.gpu_check.checks import Check, CheckResult, NotAvailableError
from daefr.gpu_check.context import Context
from daefr.gpu_check.items import ITEMS
from daefr.gpu_check.runner import Runner
from daefr.gpu_check.steps import BEST, EXACT, _compare
from daefr.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]


def test_every_item_runs_on_a_cpu(tmp_path: Path) -> None:
    """In a process of its own, as it changes what the process compiles with."""
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "daefr", "gpu-check", "--quick", "--device", "cpu", "--json", str(report)]
    ran = subprocess.run([*command, "--minutes", "60"], cwd=ROOT, capture_output=True, text=True)
    checks = json.loads(report.read_text())["checks"]
    assert [check for check in checks if check["status"] == "fail"] == []
    assert ran.returncode == 0, ran.stderr
    by_name = {(check["item"], check["check"]): check for check in checks}
    assert {check["item"] for check in checks} >= ITEMS.keys() - {"compiled_restoring", "compiled_float32"}
    compiled = by_name["steps", f"restoration, {BEST}"]["metrics"]
    assert compiled["seconds_per_step"] > 0
    assert compiled["fraction_of_bfloat16_rate"] > 0
    assert by_name["loading", "restoration, loader versus memory"]["metrics"]["ratio"] > 0
    assert by_name["ranks", "two ranks on one device over gloo"]["status"] == "pass"
    for name in ("association", "restoration"):
        assert by_name["resume", f"{name}, 2 + resume + 2 = 4 steps"]["metrics"]["different"] == 0
    for name in STAGES:
        assert by_name["steps", f"{name}, {EXACT}"]["status"] == "pass"
    without_a_gpu = {name for name, check in by_name.items() if check["status"] == "not available"}
    assert without_a_gpu == {
        ("compile_ahead", "start"),
        ("compile_ahead_end", "wait"),
        ("parity", "full-size network, float32 without TF32"),
        ("ranks", "NCCL with one rank"),
        ("photographs", "with the face detector"),
        ("largest_batch", "hq_codebook, bfloat16 eager"),
    }


def _fail() -> CheckResult:
    raise ValueError("two\nlines")


def _miss() -> CheckResult:
    raise NotAvailableError("no GPU")


def _hang() -> CheckResult:
    while True:
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("run", "status", "problems"),
    [
        (lambda: CheckResult({"seconds": 1.0}), "pass", []),
        (lambda: CheckResult({}, ["too slow"]), "fail", ["too slow"]),
        (_fail, "fail", ["ValueError: two"]),
        (_miss, "not available", ["no GPU"]),
        (_hang, "not available", ["stopped after 0 s"]),
    ],
)
def test_every_outcome_is_a_line_of_the_report(
    tmp_path: Path, run: Callable[[], CheckResult], status: str, problems: list[str]
) -> None:
    runner = Runner(60, tmp_path / "report.json", {"device": "cpu"})
    runner.run("item", [Check("first", run, seconds=0.2), Check("second", CheckResult)])
    report: dict[str, Any] = json.loads((tmp_path / "report.json").read_text())
    first, second = report["checks"]
    assert (first["status"], first["problems"]) == (status, problems)
    assert ("traceback" in first) == (run is _fail)
    assert second["status"] == "pass", "one check does not end the others"
    assert runner.failed == (status == "fail")


def test_what_was_measured_is_kept_when_the_run_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "report.json"

    def look() -> CheckResult:
        return CheckResult({"written": len(json.loads(path.read_text())["checks"])})

    runner = Runner(60, path, {})
    runner.run("item", [Check("first", CheckResult), Check("second", look)])
    assert runner.results[1]["metrics"] == {"written": 1}


def test_a_report_takes_no_file_s_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.json"
    path.write_text("somebody's")
    (tmp_path / ".report.json.tmp").write_text("somebody's")
    assert main(["gpu-check", "--quick", "--device", "cpu", "--only", "machine", "--json", str(path)]) == 2
    assert f"--json {path} already exists" in capsys.readouterr().err
    with pytest.raises(UserError, match="already exists"):
        Runner(60, path, {}).run("item", [Check("first", CheckResult)])
    assert path.read_text() == "somebody's"
    Runner(60, path, {}, overwrite=True).run("item", [Check("first", CheckResult), Check("second", CheckResult)])
    assert len(json.loads(path.read_text())["checks"]) == 2
    assert (tmp_path / ".report.json.tmp").read_text() == "somebody's"


def test_no_check_begins_without_time() -> None:
    runner = Runner(0, None, {})
    runner.run("item", [Check("first", _fail)])
    assert runner.results[0]["status"] == "not available"


@pytest.mark.parametrize(("loss", "failed"), [(1.0, False), (1.2, True), (float("nan"), True)])
def test_losses_that_disagree_fail(tmp_path: Path, loss: float, failed: bool) -> None:
    context = Context(torch.device("cpu"), quick=True, folder=tmp_path)
    context.losses["restoration", str(EXACT)] = [1.0, 1.0]
    context.losses["restoration", str(BEST)] = [loss, 1.0]
    assert bool(_compare(context, "restoration").problems) == failed


@pytest.mark.parametrize("options", [["--golden", "nowhere"], ["--detector", "nowhere"], ["--device", "toaster"]])
def test_mistakes_are_one_sentence(capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    assert main(["gpu-check", "--quick", "--only", "machine", *options]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_unknown_item_is_refused() -> None:
    with pytest.raises(SystemExit) as error:
        main(["gpu-check", "--only", "toaster"])
    assert error.value.code == 2
