"""The lease on a step's folder: one process at a time, whatever dies and whenever."""

import multiprocessing
import os
import signal
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from daefr.errors import UserError
from pipelines.engine import lease
from pipelines.engine.lease import Holder, leased
from pipelines.errors import StepFailedError

PROCESSES = multiprocessing.get_context("spawn")
SECONDS = 2.0


def _hold(folder: Path, entered: Event) -> None:
    with leased(folder, "step", seconds=SECONDS):
        entered.set()
        time.sleep(600)


def _append(folder: Path, log: Path, number: int) -> None:
    for _ in range(5):
        with leased(folder, "step", seconds=60):
            held = log.with_suffix(".held")
            held.touch(exist_ok=False)  # fails where two are inside
            with log.open("a") as stream:
                stream.write(f"{number}\n")
            held.unlink()


@pytest.fixture
def holder(tmp_path: Path) -> multiprocessing.process.BaseProcess:
    entered = PROCESSES.Event()
    process = PROCESSES.Process(target=_hold, args=(tmp_path, entered), daemon=True)
    process.start()
    assert entered.wait(120)
    return process


def test_a_held_folder_is_refused_or_waited_for(
    holder: multiprocessing.process.BaseProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=str(holder.pid)), leased(tmp_path, "step", wait=False, seconds=SECONDS):
        pass
    holder.kill()
    holder.join()
    with leased(tmp_path, "step", seconds=600) as taken:  # which is known to be dead, so that nothing is waited for
        taken.check()
    assert "waiting" not in capsys.readouterr().err


def test_a_holder_elsewhere_that_has_died_is_waited_for_as_long_as_its_lease(
    holder: multiprocessing.process.BaseProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_namespace", lambda: "another machine")
    start = time.monotonic()
    os.kill(holder.pid or 0, signal.SIGKILL)
    with leased(tmp_path, "step", seconds=SECONDS) as taken:
        assert time.monotonic() - start >= SECONDS
        taken.check()


def test_a_holder_elsewhere_that_lives_keeps_its_lease(
    holder: multiprocessing.process.BaseProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_namespace", lambda: "another machine")
    deadline = time.monotonic() + 2 * SECONDS
    while time.monotonic() < deadline:
        with pytest.raises(UserError), leased(tmp_path, "step", wait=False, seconds=SECONDS):
            pass
    holder.kill()


def test_who_was_suspended_too_long_commits_nothing(tmp_path: Path) -> None:
    with leased(tmp_path, "step") as mine:
        (tmp_path / ".lease-000002").write_bytes(lease._encode(Holder("elsewhere", "another machine", 1)))
        with pytest.raises(StepFailedError, match="elsewhere"):
            mine.check()
    assert lease._read(tmp_path / ".lease-000002") == Holder("elsewhere", "another machine", 1)


def test_several_processes_take_turns(tmp_path: Path) -> None:
    log = tmp_path / "log"
    processes = [PROCESSES.Process(target=_append, args=(tmp_path, log, number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sorted(log.read_text().split()) == ["0"] * 5 + ["1"] * 5 + ["2"] * 5


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 3}', "\0"])
def test_a_damaged_lease_ends_with_its_time(tmp_path: Path, content: str) -> None:
    (tmp_path / ".lease-000007").write_text(content)
    with leased(tmp_path, "step", seconds=0.2) as taken:
        taken.check()
