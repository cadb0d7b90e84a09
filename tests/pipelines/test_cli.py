import errno
import os
import sys
from pathlib import Path

import pytest

from daefr.files import write_whole
from pipelines.engine import command as cli
from pipelines.synthesize import step as synthesize


def test_a_full_disk_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "manifest.json"
    path.write_text("as it was")
    (tmp_path / f".manifest.json.{os.getpid()}.tmp").symlink_to("/dev/full")
    monkeypatch.setattr(synthesize.COMMAND, "work", lambda *_: [str(write_whole(path, "new"))])
    monkeypatch.setattr(sys, "argv", ["synthesize.py", "--config", "tests/e2e/tiny.yaml", f"workdir={tmp_path}"])
    assert cli.run_command("pipelines.synthesize.step") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: [Errno {errno.ENOSPC}] No space left on device")
    assert path.read_text() == "as it was"
