"""Checkpoints: what is written comes back, and what is not whole, or not safe, is refused."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from daefr.checkpoint import Checkpoint, checkpoint_digest, load_checkpoint, save_checkpoint, write_checkpoint_manifest
from daefr.errors import UserError
from daefr.settings.base import StageName
from daefr.stages import STAGES, stage_from_checkpoint
from tests.daefr import tiny

FILES = ("model.safetensors", "config.json", "trainer/state.pt")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of the restoration stage with a training to go on with."""
    stage = tiny.build("restoration")
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, stage.name, stage.network, stage.weights(), {"step": 7, "moment": torch.arange(3)})
    return folder


def _edit_manifest(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest["sha256"])
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _error(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_checkpoint(folder)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", STAGES)
def test_what_is_saved_comes_back(checkpoints: dict[StageName, Checkpoint], name: StageName) -> None:
    original = tiny.build(name, seed=10 + STAGES.index(name))
    opened = load_checkpoint(checkpoints[name].path)
    assert (opened.stage, opened.network) == (name, tiny.NETWORK)
    tensors = opened.tensors()
    assert tensors.keys() == original.weights().keys()
    assert all(torch.equal(tensors[key], tensor) for key, tensor in original.weights().items())
    rebuilt = stage_from_checkpoint(opened)
    assert rebuilt.name == name
    assert not rebuilt.training
    assert all(torch.equal(rebuilt.weights()[key], tensor) for key, tensor in tensors.items())


def test_a_training_comes_back(folder: Path) -> None:
    state = load_checkpoint(folder).trainer()
    assert state["step"] == 7
    assert torch.equal(state["moment"], torch.arange(3))


def test_equal_weights_have_equal_digests(checkpoints: dict[StageName, Checkpoint], tmp_path: Path) -> None:
    name: StageName = "restoration"
    again = tiny.checkpoint(tmp_path / "again", tiny.build(name, seed=10 + STAGES.index(name)))
    other = tiny.checkpoint(tmp_path / "other", tiny.build(name, seed=1))
    assert checkpoint_digest(again.path) == checkpoint_digest(checkpoints[name].path)
    assert checkpoint_digest(other.path) != checkpoint_digest(again.path)


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    assert file in _error(folder)


@pytest.mark.parametrize("file", FILES)
def test_an_altered_file_is_named(folder: Path, file: str) -> None:
    data = bytearray((folder / file).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / file).write_bytes(data)
    assert file in _error(folder)


def test_without_manifest_there_is_no_checkpoint(folder: Path, tmp_path: Path) -> None:
    (folder / "manifest.json").unlink()
    (tmp_path / "file").write_text("")
    for path in (folder, tmp_path / "nowhere", tmp_path / "file"):
        assert "manifest.json" in _error(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"sha256": []}', '{"sha256": "abc"}', '{"sha256": null}'])
def test_a_damaged_manifest_is_refused(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    assert "manifest.json" in _error(folder)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_manifest_must_vouch_for_the_model(folder: Path, file: str) -> None:
    _edit_manifest(folder, lambda digests: digests.pop(file))
    assert file in _error(folder)


@pytest.mark.parametrize("text", ["{}", "nothing", '{"format": 1, "stage": "resurrection", "network": {}}'])
def test_a_config_that_describes_nothing_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    write_checkpoint_manifest(folder)
    assert "config.json" in _error(folder)


def test_a_training_that_would_run_code_is_not_run(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (trace,))

    for write in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))):
        write(Evil(), folder / "trainer" / "state.pt")
        write_checkpoint_manifest(folder)
        opened = load_checkpoint(folder)
        with pytest.raises(UserError, match=r"state\.pt") as caught:
            opened.trainer()
        assert "\n" not in str(caught.value)
        assert not trace.exists()


def test_a_checkpoint_without_training_state_cannot_be_resumed(folder: Path) -> None:
    (folder / "trainer" / "state.pt").unlink()
    write_checkpoint_manifest(folder)
    opened = load_checkpoint(folder)
    assert opened.tensors()
    with pytest.raises(UserError, match=r"trainer/state\.pt"):
        opened.trainer()


def test_a_checkpoint_whose_weights_are_of_another_network_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["network"]["predictor"]["layers"] += 1
    (folder / "config.json").write_text(json.dumps(config))
    write_checkpoint_manifest(folder)
    with pytest.raises(UserError, match=r"generator\.predictor\.layers\.2"):
        stage_from_checkpoint(load_checkpoint(folder))
