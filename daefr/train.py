"""The command `python -m daefr train`: a stage on one machine, without Ray or MLflow; alone, or started by torchrun."""

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
import yaml

from daefr import ranks
from daefr.checkpoint import Checkpoint
from daefr.compiler import missing_compiler
from daefr.data.manifest import load_manifest
from daefr.errors import UserError
from daefr.files import write_atomically
from daefr.images import Image, encode_png
from daefr.outputs import Entry, Folder, FolderRecord, InTheWayError, OnConflict, Results
from daefr.released import open_initial
from daefr.settings.base import Settings, StageName
from daefr.settings.files import Given, override, read_yaml, validate
from daefr.settings.network import NetworkConfig
from daefr.settings.training import AssociationTraining, AutoencoderTraining, RestorationTraining, TrainingConfig
from daefr.stages import UPSTREAM, build_stage, init_from_checkpoint, init_from_upstream
from daefr.training.errors import HungRankError, NonFiniteLossError, StoppedError
from daefr.training.loop import train
from daefr.training.rank_vote import nccl_timeout_seconds
from daefr.training.reporter import FolderReporter

TRAININGS: dict[StageName, type[TrainingConfig]] = {
    "hq_codebook": AutoencoderTraining,
    "lq_codebook": AutoencoderTraining,
    "association": AssociationTraining,
    "restoration": RestorationTraining,
}
CHECKPOINTS, METRICS, IMAGES, CONFIG = "checkpoints", "metrics.jsonl", "images", "config.yaml"
OURS, FOREIGN = "training", "is not recorded as made by this program"
ADVICE = "move it, or give another OUT"
TIMEOUT_SECONDS = 1800.0
SHOWN = ("loss", "validation_loss", "samples_per_second")
"""Metrics that are also printed."""


def run(options: argparse.Namespace, device: torch.device) -> int:
    """Train; return 0, 1 when the training failed, or 128 + the signal that stopped it. Raises `UserError`."""
    network, training = read_settings(options)
    with _process_group(device) as rank_device:
        _check(options, training, rank_device)
        with LocalReporter(options.out, options.keep_last, options.tensorboard) as reporter:
            try:
                _train(options, network, training, rank_device, reporter)
            except StoppedError as error:
                _say(f"{error}; the same command resumes")
                return 128 + reporter.signal
            except (NonFiniteLossError, HungRankError) as error:
                sys.stderr.write(f"error: {error}\n")
                return 1
    return 0


def read_settings(options: argparse.Namespace) -> tuple[NetworkConfig, TrainingConfig]:
    """Return the settings of the network and of the training, from the configuration file and the overrides."""
    given = Given({}, "settings") if options.config is None else read_yaml(options.config)
    keys = given.keys
    if "stages" in keys:  # a configuration of pipelines
        stages = keys["stages"].keys
        if options.stage not in stages:
            raise UserError(f"{options.config} has no settings stages.{options.stage}")
        keys = {"training": stages[options.stage]} | {name: keys[name] for name in ("network",) if name in keys}
    if unknown := sorted(set(keys) - {"network", "training"}):
        raise UserError(f"{keys[unknown[0]].origin}: unknown key {unknown[0]}: valid keys are network and training")
    given_keys = {name: each for name, each in keys.items() if not each.is_null}
    parts = {name: given_keys.get(name, Given({}, given.origin)) for name in ("network", "training")}
    model = TRAININGS[options.stage]
    for assignment in options.overrides:
        if assignment.startswith("network."):
            override(Given(parts, given.origin), assignment, _Network)
        else:
            override(parts["training"], assignment, model)
    return validate(NetworkConfig, parts["network"]), validate(model, parts["training"])


class _Network(Settings):
    """Tells an override of the network's settings from one of the training's."""

    network: NetworkConfig


def _check(options: argparse.Namespace, training: TrainingConfig, device: torch.device) -> None:
    training.check_device(device.type)
    if training.micro_batch_size % ranks.count():
        raise UserError(f"a batch of {training.micro_batch_size} cannot be split evenly over {ranks.count()} ranks")
    if training.speed.on(device.type).compile and (missing := missing_compiler(device.type)):
        raise UserError(f"torch.compile finds {missing}: install one, or train with speed.compile=false")
    if options.dataloader_workers < 0:
        raise UserError(f"--dataloader-workers is {options.dataloader_workers}; it must be 0 or more")


def _train(
    options: argparse.Namespace,
    network: NetworkConfig,
    training: TrainingConfig,
    device: torch.device,
    reporter: "LocalReporter",
) -> None:
    training = training.in_steps(load_manifest(options.dataset).samples("train"))
    resume = reporter.resume()
    if resume is not None and resume.stage != options.stage:
        raise UserError(f"{options.out} holds a training of {resume.stage}, not of {options.stage}")
    if resume is not None and resume.network != network:
        raise UserError(
            f"{options.out} holds a training of another network: see its {CONFIG}, or choose another folder"
        )
    stage = build_stage(options.stage, network, training, options.seed)
    fresh = resume is None and _load_initial(options, training, stage)
    step = resume.trainer()["step"] if resume is not None else 0
    reporter.begin(step, {"network": network, "training": training})
    _say(f"{options.stage}: {f'resuming after step {step}' if step else 'training'}, {training.last_step} steps in all")
    train(
        stage,
        training,
        options.dataset,
        reporter,
        seed=options.seed,
        device=device,
        from_scratch=fresh,
        resume=resume,
        dataloader_workers=options.dataloader_workers,
        timeout_seconds=TIMEOUT_SECONDS,
    )
    _say(f"{options.stage}: trained {training.last_step} steps; checkpoints are in {options.out / CHECKPOINTS}")


def _load_initial(options: argparse.Namespace, training: TrainingConfig, stage: Any) -> bool:
    """Fill a stage from the checkpoints that were given; return whether its weights are still the random ones."""
    initial = options.initial_checkpoint or (Path(training.initial_checkpoint) if training.initial_checkpoint else None)
    with tempfile.TemporaryDirectory(prefix="daefr-") as scratch:
        if initial is not None:
            init_from_checkpoint(stage, open_initial(initial, stage.name, stage.network, Path(scratch)))
            return False
        upstream: dict[StageName, Checkpoint] = {}
        for name in UPSTREAM[stage.name]:
            path: Path | None = getattr(options, name)
            if path is None:
                raise UserError(
                    f"{stage.name} starts from {name}: give its checkpoint as --{name.replace('_', '-')} DIR"
                )
            upstream[name] = open_initial(path, name, stage.network, Path(scratch))
        init_from_upstream(stage, upstream)
        return not upstream


@contextlib.contextmanager
def _process_group(device: torch.device) -> Iterator[torch.device]:
    """Join the other ranks if torchrun started this process; give this rank's device."""
    if "WORLD_SIZE" not in os.environ:
        yield device
        return
    if device.type not in ("cuda", "cpu"):
        raise UserError(f"several ranks compute on cuda or cpu, not on {device}: train with one")
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if device.index >= torch.cuda.device_count():
            raise UserError(f"rank {os.environ['RANK']} has no GPU: this machine has {torch.cuda.device_count()}")
        torch.cuda.set_device(device)
    backend, timeout = (
        ("nccl", nccl_timeout_seconds(TIMEOUT_SECONDS)) if device.type == "cuda" else ("gloo", TIMEOUT_SECONDS)
    )
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    try:
        yield device
    finally:
        dist.destroy_process_group()


@dataclass(frozen=True)
class _TensorBoard:
    writer: Any

    def metrics(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()


class LocalReporter(FolderReporter):
    """Keeps checkpoints, metrics as JSON lines, images as PNG files, and where asked for TensorBoard events.

    Only rank 0 writes. SIGTERM and Ctrl-C end the training after the current step, with a checkpoint; a second Ctrl-C
    ends it at once.
    """

    def __init__(self, folder: Path, keep_last: int, tensorboard: Path | None = None) -> None:
        """Report into `folder`. Raises `UserError` where TensorBoard is asked for and not installed."""
        if keep_last < 1:
            raise UserError(f"--keep-last is {keep_last}; it must be 1 or more")
        super().__init__(folder / CHECKPOINTS, keep_last)
        self._out = folder
        self._tensorboard = _open_tensorboard(tensorboard) if tensorboard is not None and _is_first() else None
        self._handlers: dict[int, Any] = {}
        self.signal = 0
        """The number of the signal that stops the training, 0 for none."""

    def __enter__(self) -> "LocalReporter":
        """Listen to signals."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handlers[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        """Handle signals as before."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._tensorboard is not None:
            self._tensorboard.writer.close()

    def begin(self, step: int, settings: dict[str, Any]) -> None:
        """Prepare the folder for a training that begins after `step`: metrics of later steps will come again."""
        if not _is_first():
            return
        tree = {key: value.model_dump(mode="json") for key, value in settings.items()}
        path = self._out / METRICS
        try:
            self._results().write(yaml.safe_dump(tree, sort_keys=False).encode(), CONFIG, OURS)
            record = FolderRecord(self._out)
            # lines are added to it, so that its digest tells nothing
            if os.path.lexists(path) and not record.of(METRICS):
                raise InTheWayError(f"{path} already exists and {FOREIGN}: {ADVICE}")
            record.add(Entry(METRICS, "", METRICS, OURS))
        except InTheWayError as error:
            raise UserError(str(error)) from None
        except OSError as error:
            raise UserError(f"{self._out} cannot be written to: {error.strerror}") from None
        lines = path.read_text().splitlines() if path.is_file() else []
        write_atomically(path, "".join(f"{line}\n" for line in lines if _step_of(line) <= step))

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Append a line to the metrics' file."""
        super().metrics(step, values)
        with (self._out / METRICS).open("a") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")
        if self._tensorboard is not None:
            self._tensorboard.metrics(step, values)
        if shown := [f"{name} {values[name]:.4g}" for name in SHOWN if name in values]:
            _say(f"step {step}: {', '.join(shown)}")

    def image(self, step: int, name: str, image: Image) -> None:
        """Write a PNG file; under a numbered name where somebody else's has the usual one."""
        file = f"{IMAGES}/step-{step:09d}-{name.replace(' ', '_')}.png"
        self._results("rename").write(encode_png(image), file, OURS)

    def _results(self, on_conflict: OnConflict = "stop") -> Results:
        """Return the files of this training, which are the only ones in the folder that are replaced."""
        return Results(
            Folder(self._out),
            FolderRecord(self._out),
            foreign=FOREIGN,
            advice=ADVICE,
            exists=lambda _: True,
            on_conflict=on_conflict,
        )

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        self.stop.set()


def _open_tensorboard(folder: Path) -> _TensorBoard:
    if find_spec("tensorboard") is None:
        raise UserError("--tensorboard needs the package tensorboard: pip install tensorboard, or leave the option out")
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  # imports TensorBoard

    return _TensorBoard(SummaryWriter(str(folder)))


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # a line that a kill cut off
        return float("inf")


def _is_first() -> bool:
    return ranks.rank() == 0


def _say(line: str) -> None:
    if _is_first():
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
