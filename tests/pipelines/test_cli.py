import errno
import os
import sys
from pathlib import Path

import pytest

from daefr.files import write_atomically
from pipelines.engine import command as cli
from pipelines.synthesize import step as synthesize


def test_a_full_disk_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "manifest.json"
    path.write_text("as it was")

    def write_to_full_disk(path: Path, _: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(synthesize.COMMAND, "work", lambda *_: [str(write_atomically(path, "new"))])
    monkeypatch.setattr(sys, "argv", ["synthesize.py", "--config", "tests/e2e/tiny.yaml", f"workdir={tmp_path}"])
    monkeypatch.setattr(Path, "write_bytes", write_to_full_disk)
    assert cli.run_command("pipelines.synthesize.step") == 1
    monkeypatch.undo()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: [Errno {errno.ENOSPC}] No space left on device")
    assert path.read_text() == "as it was"
