"""`python -m daefr train`: alone and under torchrun, stopped and resumed, and what it says of mistakes."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from daefr.checkpoint import Checkpoint, load_checkpoint
from daefr.cli import main
from daefr.released import export_released
from daefr.settings.base import StageName
from daefr.stages import STAGES, UPSTREAM
from daefr.train import read_settings
from tests.daefr import foreign, tiny

ROOT = Path(__file__).resolve().parents[2]
STEPS = 5


def _config(folder: Path, name: StageName, **changes: Any) -> Path:
    path = folder / "config.yaml"
    tree = {
        "network": tiny.NETWORK.model_dump(mode="json"),
        "training": tiny.settings(name, steps=STEPS, **changes).model_dump(mode="json"),
    }
    path.write_text(yaml.safe_dump(tree))
    return path


def _arguments(
    name: StageName, dataset: Path, out: Path, config: Path, checkpoints: dict[StageName, Checkpoint]
) -> list[str]:
    upstream = [
        argument for each in UPSTREAM[name] for argument in (f"--{each.replace('_', '-')}", str(checkpoints[each].path))
    ]
    return ["train", name, str(dataset), str(out), "--config", str(config), "--device", "cpu", *upstream]


def _weights(out: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    return load_checkpoint(out / "checkpoints" / f"step-{step:09d}").tensors()


def _lines(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_trains(
    tmp_path: Path, dataset: Path, checkpoints: dict[StageName, Checkpoint], name: StageName
) -> None:
    out = tmp_path / "out"
    assert main(_arguments(name, dataset, out, _config(tmp_path, name), checkpoints)) == 0
    assert load_checkpoint(out / "checkpoints" / f"step-{STEPS:09d}").stage == name
    lines = _lines(out)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, STEPS + 1))
    assert sum("validation_loss" in line for line in lines) == 1
    assert list((out / "images").glob(f"step-{STEPS:09d}-{name}*.png"))
    assert yaml.safe_load((out / "config.yaml").read_text())["training"]["steps"] == STEPS


def test_the_same_command_resumes_bit_for_bit(
    tmp_path: Path, dataset: Path, checkpoints: dict[StageName, Checkpoint]
) -> None:
    name: StageName = "restoration"
    config = _config(tmp_path, name, checkpoint_every_n_steps=1)
    straight, halves = tmp_path / "straight", tmp_path / "halves"
    assert main(_arguments(name, dataset, straight, config, checkpoints)) == 0
    assert main([*_arguments(name, dataset, halves, config, checkpoints), "steps=3"]) == 0
    # what a training wrote that was killed after its last checkpoint, while it wrote a line
    with (halves / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 4, "loss": 7.0}\n{"step": 5, "lo')
    assert main(_arguments(name, dataset, halves, config, checkpoints)) == 0
    resumed = _weights(halves)
    assert all(torch.equal(tensor, resumed[path]) for path, tensor in _weights(straight).items())
    losses = [(line["step"], line["loss"]) for line in _lines(straight) if "loss" in line]
    assert [(line["step"], line["loss"]) for line in _lines(halves) if "loss" in line] == losses


def test_nothing_of_somebody_else_is_replaced(
    tmp_path: Path, dataset: Path, checkpoints: dict[StageName, Checkpoint], capsys: pytest.CaptureFixture[str]
) -> None:
    name: StageName = "hq_codebook"
    config, out = _config(tmp_path, name), tmp_path / "out"
    for taken in ("config.yaml", "metrics.jsonl"):
        before = foreign.fill(out, [taken, "notes.txt", "checkpoints/notes.txt"])
        assert main(_arguments(name, dataset, out, config, checkpoints)) == 2
        assert f"{out / taken} already exists and is not recorded as made by this program" in capsys.readouterr().err
        assert foreign.lost(before, out) == []
        (out / taken).unlink()
    names = [f"images/step-{STEPS:09d}-{name}{more}.png" for more in ("", "_codes", "_usage")]
    before = foreign.fill(out, [*names, "checkpoints/notes.txt", "checkpoints/step-000000001/notes.txt", "notes.txt"])
    for _ in range(2):
        assert main(_arguments(name, dataset, out, config, checkpoints)) == 0
        assert foreign.lost({each: before[each] for each in names}, out) == []
    assert list((out / "images").glob("*-1.png"))


def test_a_killed_training_resumes_bit_for_bit(
    tmp_path: Path, dataset: Path, checkpoints: dict[StageName, Checkpoint]
) -> None:
    name: StageName = "restoration"
    config = _config(tmp_path, name, checkpoint_every_n_steps=1)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert main(_arguments(name, dataset, straight, config, checkpoints)) == 0
    command = [sys.executable, "-m", "daefr", *_arguments(name, dataset, killed, config, checkpoints)]
    # sums are rounded otherwise on another number of threads
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    while not list((killed / "checkpoints").glob("step-*")) and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert main(_arguments(name, dataset, killed, config, checkpoints)) == 0
    resumed = _weights(killed)
    assert all(torch.equal(tensor, resumed[path]) for path, tensor in _weights(straight).items())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stores_a_checkpoint(
    tmp_path: Path, dataset: Path, checkpoints: dict[StageName, Checkpoint], number: signal.Signals
) -> None:
    out, name = tmp_path / "out", "lq_codebook"
    config = _config(tmp_path, "lq_codebook")
    arguments = [
        *_arguments("lq_codebook", dataset, out, config, checkpoints),
        "steps=1000000",
        "validate_every_n_steps=1000000",
    ]
    process = subprocess.Popen([sys.executable, "-m", "daefr", *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not (out / "metrics.jsonl").is_file() or not _lines(out):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == 128 + number
    assert "Traceback" not in said
    (checkpoint,) = (out / "checkpoints").glob("step-*")
    assert load_checkpoint(checkpoint).stage == name
    assert load_checkpoint(checkpoint).trainer()["step"] == _lines(out)[-1]["step"]


def test_two_ranks_under_torchrun(tmp_path: Path, dataset: Path, checkpoints: dict[StageName, Checkpoint]) -> None:
    name: StageName = "restoration"
    config = _config(tmp_path, name)
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert main(_arguments(name, dataset, alone, config, checkpoints)) == 0
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "daefr"]
    command = [sys.executable, *launcher, *_arguments(name, dataset, together, config, checkpoints)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert len(_lines(together)) == len(_lines(alone)), "only rank 0 writes"
    for mine, theirs in zip(_lines(alone), _lines(together), strict=True):
        assert mine["step"] == theirs["step"]
        for term in {"loss", "validation_loss"} & mine.keys():
            assert theirs[term] == pytest.approx(mine[term], rel=1e-3)


def test_an_initial_checkpoint(tmp_path: Path, dataset: Path, checkpoints: dict[StageName, Checkpoint]) -> None:
    out, config = tmp_path / "out", _config(tmp_path, "restoration")
    initial = checkpoints["restoration"]
    arguments = ["train", "restoration", str(dataset), str(out), "--config", str(config), "--device", "cpu"]
    assert main([*arguments, "--initial-checkpoint", str(initial.path), "base_learning_rate=1e-30"]) == 0
    trained = _weights(out)
    for path, tensor in initial.tensors().items():
        torch.testing.assert_close(trained[path], tensor, rtol=0, atol=1e-20)


def test_an_initial_checkpoint_may_be_a_released_file(
    tmp_path: Path, dataset: Path, checkpoints: dict[StageName, Checkpoint]
) -> None:
    initial = checkpoints["restoration"]
    export_released(initial.path, tmp_path / "released.ckpt")
    bare = torch.load(tmp_path / "released.ckpt", weights_only=True)["state_dict"]
    torch.save({"params": {f"module.{name}": tensor for name, tensor in bare.items()}}, tmp_path / "wrapped.pth")
    out, config = tmp_path / "out", _config(tmp_path, "restoration")
    arguments = ["train", "restoration", str(dataset), str(out), "--config", str(config), "--device", "cpu"]
    given = ["--initial-checkpoint", str(tmp_path / "wrapped.pth"), "base_learning_rate=1e-30"]
    assert main([*arguments, *given]) == 0
    trained = _weights(out)
    for path, tensor in initial.tensors().items():
        torch.testing.assert_close(trained[path], tensor, rtol=0, atol=1e-20)


def test_a_configuration_of_pipelines_is_read_too() -> None:
    options = argparse.Namespace(
        stage="association",
        config=ROOT / "pipelines/configs/ffhq512.yaml",
        overrides=["steps=7", "epochs=null", "network.autoencoder.channels=32"],
    )
    network, training = read_settings(options)
    assert network.autoencoder.channels == 32
    assert training.steps == 7


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["stepz=3"], ["stepz", "steps"]),
        (["steps"], ["KEY=VALUE"]),
        (["network.autoencoder.groups=3"], ["groups", "3"]),
        (["speed.allow_tf32=true"], ["allow_tf32", "cpu"]),
        (["--config", "nowhere.yaml"], ["nowhere.yaml"]),
        (["--initial-checkpoint", "nowhere"], ["nowhere"]),
        (["--keep-last", "0"], ["--keep-last"]),
        (["--dataloader-workers", "-1"], ["--dataloader-workers"]),
    ],
)
def test_mistakes_are_one_sentence(
    tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str], change: list[str], words: list[str]
) -> None:
    config = _config(tmp_path, "hq_codebook")
    arguments = [
        "train",
        "hq_codebook",
        str(dataset),
        str(tmp_path / "out"),
        "--config",
        str(config),
        "--device",
        "cpu",
    ]
    assert main([*arguments, *change]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(word in error for word in words)
    assert not (tmp_path / "out").exists(), "a mistake leaves nothing behind"


def test_a_stage_needs_its_upstream(tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = _config(tmp_path, "association")
    out = str(tmp_path / "out")
    assert main(["train", "association", str(dataset), out, "--config", str(config), "--device", "cpu"]) == 2
    assert "--hq-codebook" in capsys.readouterr().err


def test_a_folder_of_another_stage_is_refused(
    tmp_path: Path, dataset: Path, checkpoints: dict[StageName, Checkpoint], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    config = _config(tmp_path, "hq_codebook")
    assert main([*_arguments("hq_codebook", dataset, out, config, checkpoints), "steps=1", "milestones=[]"]) == 0
    capsys.readouterr()
    assert main([*_arguments("lq_codebook", dataset, out, config, checkpoints), "steps=1"]) == 2
    assert "hq_codebook" in capsys.readouterr().err
