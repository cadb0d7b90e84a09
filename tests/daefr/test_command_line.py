"""The command line `daefr`: its help, its suggestions, and where it finds a model and a device."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import daefr
from daefr.cli import COMMANDS, degradations_preview, main
from daefr.device import resolve_device
from daefr.errors import UserError
from daefr.locate import find_model
from degradations import RECIPES
from tests.daefr import tiny

HELP = [["--help"], *([*name.split(), "--help"] for name in COMMANDS)]


def _stopped(arguments: list[str]) -> object:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return stopped.value.code


def test_without_a_command_every_command_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed and command.summary in listed for name, command in COMMANDS.items())


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert _stopped(["--version"]) == 0
    assert capsys.readouterr().out == f"daefr {daefr.__version__}\n"
    assert daefr.__version__[0].isdigit()


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_in_a_commands_help_are_its_own(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _stopped([*name.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: daefr {name} ")
    examples = [line for line in shown.splitlines() if line.startswith("  daefr ")]
    assert all(any(line.startswith(f"  daefr {known} ") for known in COMMANDS) for line in examples)
    if examples:
        assert examples[0].startswith(f"  daefr {name} ")


def test_help_and_mistakes_need_no_torch() -> None:
    """Importing it takes seconds."""
    script = f"""
import sys
from daefr.cli import main
for arguments in {HELP!r} + [["restore", "IN", "OUT", "--model", "models:/x@champion"]]:
    try:
        main(arguments)
    except SystemExit as stopped:
        assert stopped.code == 0, arguments
    assert not {{"torch", "cv2", "scipy"}} & set(sys.modules), arguments
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["resotre"], "'restore'"),
        (["data", "shwo"], "'data show'"),
        (["fidstatistics"], "'fid-statistics'"),
        (["restore", "IN", "OUT", "--modle", "x"], "--model"),
        (["restore", "IN", "OUT", "--model=x", "--devise=cpu"], "--device"),
    ],
)
def test_what_was_probably_meant_is_suggested(
    arguments: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1
    assert meant in line.partition("did you mean")[2]


def test_every_recipe_can_be_previewed() -> None:
    assert set(degradations_preview.RECIPES) == set(RECIPES)


def test_an_unknown_device_is_answered_with_those_that_exist() -> None:
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == torch.device("cpu")
    for name in ("cuda:99", "gpu"):
        with pytest.raises(UserError, match=f"{name}.*cpu"):
            resolve_device(name)


def _finish(run: Path, fingerprint: str, finished: str, step: str = "restoration") -> Path:
    folder = run / "steps" / f"{step}-{fingerprint}"
    (folder / "checkpoint").mkdir(parents=True)
    if finished:
        (folder / "manifest.json").write_text(json.dumps({"step": step, "finished": finished}))
    return folder / "checkpoint"


def test_of_a_run_the_newest_finished_model_is_found(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "steps").mkdir(parents=True)
    with pytest.raises(UserError, match="without a finished restoration"):
        find_model(run)
    _finish(run, "aaa", "2026-01-02T00:00:00Z")
    newest = _finish(run, "bbb", "2026-01-03T00:00:00Z")
    _finish(run, "ccc", "2026-01-01T00:00:00Z")
    _finish(run, "ddd", "")
    _finish(run, "eee", "2026-01-04T00:00:00Z", step="association")
    damaged = _finish(run, "fff", "2026-01-05T00:00:00Z").with_name("manifest.json")
    damaged.write_text(damaged.read_text()[:-5])
    assert find_model(run) == newest


def test_a_model_is_also_a_checkpoint_a_file_or_a_download(tmp_path: Path) -> None:
    checkpoint = tiny.checkpoint(tmp_path / "checkpoint", tiny.build("restoration")).path
    released = tmp_path / "released.ckpt"
    released.touch()
    downloaded = tmp_path / "downloaded"
    (downloaded / "artifacts").mkdir(parents=True)
    (downloaded / "MLmodel").touch()
    checkpoint_of_download = checkpoint.rename(downloaded / "artifacts" / "checkpoint")
    assert find_model(checkpoint_of_download) == checkpoint_of_download
    assert find_model(str(released)) == released
    assert find_model(downloaded) == checkpoint_of_download


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ("models:/daefr-restoration@champion", "daefr-pipelines restore --model models:/daefr-restoration@champion"),
        ("no/such/model", "no/such/model"),
        (".", "checkpoint directory"),
    ],
)
def test_what_is_no_model_is_answered_with_what_is(
    model: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=named):
        find_model(model)
