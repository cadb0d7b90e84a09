import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from daefr.errors import UserError
from daefr.files import write_atomically
from pipelines import commands
from pipelines.commands import COMMANDS, find_command
from pipelines.commands.steps import SynthesizeCommand
from tests.e2e.command import ROOT, TINY

HEAVY = ("torch", "ray", "mlflow")


def test_a_full_disk_is_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "manifest.json"
    path.write_text("as it was")

    def write_to_full_disk(path: Path, _: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", write_to_full_disk)
    monkeypatch.setattr(SynthesizeCommand, "work", lambda *_: [str(write_atomically(path, "new"))])
    assert commands.main(["synthesize", "--config", str(TINY), f"workdir={tmp_path}"]) == 1
    monkeypatch.undo()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: [Errno {errno.ENOSPC}] No space left on device")
    assert path.read_text() == "as it was"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_of_a_command_are_its_own(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        commands.main([*name.split(), "--help"])
    assert ended.value.code == 0
    examples = capsys.readouterr().out.partition("Examples:\n")[2].splitlines()
    assert examples
    assert all(line.startswith(f"  python -m pipelines {name} ") or line == f"  python -m pipelines {name}"
               for line in examples)  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_help_imports_nothing_that_takes_long(name: str) -> None:
    program = f"import sys; from pipelines.commands import main\ntry: main({[*name.split(), '--help']})\n"
    program += f"except SystemExit: sys.exit(str([name for name in {HEAVY} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.strip() == "[]"


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main([]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["full"], "full"),
        (["promote", "--stage", "restoration"], "promote"),
        (["promote", "tracking.uri=x", "--stage", "restoration"], "promote"),
        (["promote", "rollback", "restoration"], "promote rollback"),
        (["promote", "--rollback", "restoration"], "promote rollback"),
        (["--help"], None),
    ],
)
def test_a_command_is_found(given: list[str], found: str | None) -> None:
    assert find_command(given) == found


@pytest.mark.parametrize(
    ("given", "suggestion"), [(["trian"], "'train'"), (["promote", "histroy", "restoration"], "'history'")]
)
def test_a_misspelt_command_gets_a_suggestion(given: list[str], suggestion: str) -> None:
    with pytest.raises(UserError, match=suggestion):
        find_command(given)
    assert commands.main(given) == 2


def test_a_misspelt_option_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        commands.main(["train", "--stge", "restoration"])
    assert ended.value.code == 2
    assert "--stage" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["pipelines/full.py"], ["-m", "pipelines", "train", "--stage", "restoration"]])
def test_an_environment_without_the_packages_is_named(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-S", *command], cwd=ROOT, capture_output=True, text=True, env={"PATH": os.environ["PATH"]}
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert sys.prefix in line or sys.base_prefix in line
