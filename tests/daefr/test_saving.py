"""Intermediate checkpoints: when they are made, which are kept, and damaged ones."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from daefr.checkpoint import AVERAGE, MANIFEST, MODEL, load_checkpoint, load_newest, save_averaged
from daefr.errors import UserError
from daefr.training.errors import StoppedError
from daefr.training.loop import train
from daefr.training.reporter import FolderReporter, Save
from daefr.training.state import TrainingState
from tests.daefr import tiny


def _run(dataset: Path, reporter: FolderReporter, *, resume: bool = False, **changes: Any) -> dict[str, float]:
    settings = tiny.settings("restoration", **changes)
    found = reporter.resume() if resume else None
    return train(tiny.build("restoration"), settings, dataset, reporter, resume=found)


def _kept(folder: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in folder.glob("step-*"))


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    reporter = FolderReporter(tmp_path, keep=2)
    for step, loss in enumerate([3.0, 1.0, 2.0, 4.0, 5.0], 1):
        reporter.metrics(step, {"validation_loss": loss})
        reporter.checkpoint(step, _write(step))
    reporter.finish()
    assert _kept(tmp_path) == [2, 4, 5]
    again = FolderReporter(tmp_path, keep=2)  # as after a restart
    again.checkpoint(6, _write(6))
    again.finish()
    assert _kept(tmp_path) == [2, 5, 6]


def _write(step: int) -> Save:
    def save(folder: Path) -> None:
        (folder / MANIFEST).write_text(str(step))

    return save


def test_a_checkpoint_is_written_while_the_training_goes_on(tmp_path: Path) -> None:
    go_on = threading.Event()
    reporter = FolderReporter(tmp_path)

    def slow(folder: Path) -> None:
        assert go_on.wait(60)
        (folder / MANIFEST).touch()

    reporter.checkpoint(1, slow)
    assert _kept(tmp_path) == []
    go_on.set()
    reporter.finish()
    assert _kept(tmp_path) == [1]


def test_what_is_written_is_the_training_as_it_was(tmp_path: Path) -> None:
    stage = tiny.build("hq_codebook", ema_decay=0.9)
    state = TrainingState(stage, tiny.settings("hq_codebook", ema_decay=0.9))
    before = {name: tensor.clone() for name, tensor in stage.weights().items()}
    save = state.snapshot()
    with torch.no_grad():
        for parameter in stage.parameters():
            parameter.zero_()
        for tensor in state.average.tensors.values() if state.average else ():
            tensor.zero_()
    save(tmp_path / "checkpoint")
    written = load_checkpoint(tmp_path / "checkpoint")
    for name, tensor in written.tensors().items():
        assert torch.equal(tensor, before[name])
    for name, tensor in written.average().items():
        assert torch.equal(tensor, before[name])


def test_a_failed_write_ends_the_training_and_keeps_the_checkpoint_before(dataset: Path, tmp_path: Path) -> None:
    class FullDisk(FolderReporter):
        def checkpoint(self, step: int, save: Save) -> None:
            def fail(folder: Path) -> None:
                save(folder)
                (folder / "manifest.json").unlink()
                raise OSError(28, "No space left on device")

            super().checkpoint(step, fail if step == 4 else save)

    with pytest.raises(OSError) as caught:
        _run(dataset, FullDisk(tmp_path), checkpoint_every_n_steps=2)
    assert caught.value.errno == 28
    assert _kept(tmp_path) == [2]
    _run(dataset, FolderReporter(tmp_path), resume=True)
    straight = FolderReporter(tmp_path / "straight")
    _run(dataset, straight)
    same = load_checkpoint(tmp_path / "straight" / "step-000000005").tensors()
    assert all(
        torch.equal(tensor, same[name])
        for name, tensor in load_checkpoint(tmp_path / "step-000000005").tensors().items()
    )


def test_a_damaged_checkpoint_is_skipped_with_a_warning(
    dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _run(dataset, FolderReporter(tmp_path), checkpoint_every_n_steps=2)
    assert _kept(tmp_path) == [4, 5]
    damaged = tmp_path / "step-000000005" / MODEL
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    found = FolderReporter(tmp_path).resume()
    assert found is not None
    assert found.trainer()["step"] == 4
    (record,) = caplog.records
    assert "step-000000005" in record.getMessage() and MODEL in record.getMessage()
    (tmp_path / "step-000000004" / "manifest.json").unlink()
    with pytest.raises(UserError, match="step-000000005"):
        FolderReporter(tmp_path).resume()
    assert load_newest([]) is None


def test_a_stopped_training_resumes_from_its_checkpoint(dataset: Path, tmp_path: Path) -> None:
    class Stopping(FolderReporter):
        def metrics(self, step: int, values: dict[str, float]) -> None:
            super().metrics(step, values)
            if step == 2:
                self.stop.set()

    with pytest.raises(StoppedError, match="step 3"):
        _run(dataset, Stopping(tmp_path / "stopped"))
    assert _kept(tmp_path / "stopped") == [3]
    _run(dataset, FolderReporter(tmp_path / "stopped"), resume=True)
    straight = FolderReporter(tmp_path / "straight")
    _run(dataset, straight)
    first, second = (load_checkpoint(tmp_path / name / "step-000000005").tensors() for name in ("stopped", "straight"))
    assert all(torch.equal(first[name], second[name]) for name in second)


def test_a_stop_at_the_last_step_is_an_end(dataset: Path, tmp_path: Path) -> None:
    reporter = FolderReporter(tmp_path)
    reporter.stop.set()
    assert "validation_loss" in _run(dataset, reporter, steps=1, milestones=())


def test_checkpoints_are_made_by_the_clock(dataset: Path, tmp_path: Path) -> None:
    steps: list[int] = []

    class Counting(FolderReporter):
        def checkpoint(self, step: int, save: Save) -> None:
            steps.append(step)
            super().checkpoint(step, save)

    _run(dataset, Counting(tmp_path), checkpoint_every_n_minutes=1e-9)
    assert steps == [1, 2, 3, 4, 5]
    steps.clear()
    _run(dataset, Counting(tmp_path), checkpoint_every_n_minutes=60)
    assert steps == [5]


def test_the_best_validation_is_saved_whenever_it_comes(dataset: Path, tmp_path: Path) -> None:
    reporter = FolderReporter(tmp_path, keep=1)
    _run(dataset, reporter, validate_every_n_steps=1, base_learning_rate=5e-3)
    losses = {step: values["validation_loss"] for step, values in reporter.history if "validation_loss" in values}
    assert _kept(tmp_path) == sorted({5, min(losses, key=losses.__getitem__)})


def test_size_and_time_of_checkpoints_are_reported(dataset: Path, tmp_path: Path) -> None:
    reporter = FolderReporter(tmp_path)
    _run(dataset, reporter, checkpoint_every_n_steps=2)
    assert sum("checkpoint_wait_seconds" in values for _, values in reporter.history) == 3
    size = sum(path.stat().st_size for path in (tmp_path / "step-000000005").rglob("*") if path.is_file())
    assert reporter.history[-1][1]["checkpoint_megabytes"] == pytest.approx(size / 1e6)
    assert reporter.history[-1][1]["checkpoint_write_seconds"] > 0


def test_averaged_weights_become_a_checkpoint_of_their_own(dataset: Path, tmp_path: Path) -> None:
    measured = _run(dataset, FolderReporter(tmp_path), ema_decay=0.5)
    assert measured["ema_validation_loss"] != measured["validation_loss"]
    last = load_checkpoint(tmp_path / "step-000000005")
    save_averaged(last, tmp_path / "averaged")
    averaged = load_checkpoint(tmp_path / "averaged")
    assert {path.name for path in averaged.path.iterdir()} == {MODEL, "config.json", "manifest.json"}
    assert averaged.tensors().keys() == last.tensors().keys()
    for name, tensor in averaged.tensors().items():
        assert torch.equal(tensor, last.average().get(name, last.tensors()[name]))
    # what was validated as the average is what that checkpoint holds
    again = _run_validation(dataset, tmp_path / "averaged")
    assert again["validation_loss"] == pytest.approx(measured["ema_validation_loss"], rel=1e-6)
    _run(dataset, FolderReporter(tmp_path / "plain"))
    with pytest.raises(UserError, match="step-000000005"):
        save_averaged(load_checkpoint(tmp_path / "plain" / "step-000000005"), tmp_path / "none")
    assert not (tmp_path / "plain" / "step-000000005" / AVERAGE).exists()


def _run_validation(dataset: Path, checkpoint: Path) -> dict[str, float]:
    from daefr.data.dataset import FaceDataset
    from daefr.stages import stage_from_checkpoint
    from daefr.training.validation import validate

    stage = stage_from_checkpoint(load_checkpoint(checkpoint), tiny.settings("restoration"))
    return validate(stage, FaceDataset(dataset, "validation", stage.parts), 4, torch.device("cpu"))[0]
