"""Ctrl-C, which a terminal sends to every process of the command, Ray's included."""

import os
import signal
import subprocess
import time
from pathlib import Path

from daefr.data.manifest import load_manifest
from tests.e2e.command import ROOT, TINY, command, environment, run

PORTRAITS = ("data.num_portraits=80", "data.samples_per_shard=4")


def test_ctrl_c_stops_with_one_line_and_the_same_command_goes_on(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("synthesize", tmp_path, TINY, PORTRAITS),
        cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    while not list(tmp_path.glob("steps/synthesize-*/dataset/*.json")):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130, told
    (_, *after) = told.splitlines()
    after = [line for line in after if " faces, " not in line]
    assert after == ["interrupted: the same command resumes from here"]

    (folder,) = tmp_path.glob("steps/synthesize-*")
    assert not (folder / "manifest.json").exists()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("dataset/*.json")}
    finished = run("synthesize", tmp_path, *PORTRAITS)
    assert finished.code == 0, finished.err
    assert "synthesize: resuming" in finished.err
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what was finished is not made again"
    made = load_manifest(folder / "dataset")
    assert made.samples("train") + made.samples("validation") == 80
