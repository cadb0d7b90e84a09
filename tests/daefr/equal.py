"""What several ranks do for the test of their number; in a file of its own, as fresh processes import it."""

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from daefr.settings.base import StageName
from daefr.stages import STAGES
from daefr.training.errors import HungRankError
from daefr.training.loop import train
from daefr.training.rank_vote import RankVote
from daefr.training.reporter import FolderReporter
from tests.daefr import tiny

STEPS = 10
# the released learning rate a sample; everything that looks beyond a sample takes part
OPTIONS: dict[str, Any] = {
    "steps": STEPS, "global_batch_size": 8, "gradient_accumulation_steps": 2, "base_learning_rate": 4.5e-6,
    "milestones": (), "lr_scheduler": "cosine", "warmup_steps": 2, "max_grad_norm": 1.0, "ema_decay": 0.9,
}  # fmt: skip
REMEDIES = {"codebook": {"reset_every_n_steps": 4}}


def on_ranks(dataset: Path, folder: Path, count: int) -> dict[str, Any]:
    """Train every stage on so many ranks; return what the first has to tell."""
    torch.multiprocessing.spawn(_work, (dataset, folder, count), nprocs=count)
    told: dict[str, Any] = torch.load(folder / f"{count}.pt", weights_only=True)
    return told


def _work(rank: int, dataset: Path, folder: Path, count: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / f'meeting-{count}'}", rank=rank, world_size=count)
    told = {name: trained(name, dataset, folder / f"{name}-{count}-{rank}") for name in STAGES}
    if rank == 0:
        torch.save(told, folder / f"{count}.pt")
    dist.destroy_process_group()


def trained(name: StageName, dataset: Path, folder: Path) -> dict[str, Any]:
    """Train a stage on this rank; return its parameters and its losses by step."""
    changes = OPTIONS if name == "restoration" else OPTIONS | REMEDIES
    stage = tiny.build(name, **changes)
    if stage.discriminator is not None:
        _without_batch_norm(stage.discriminator)
    reporter = FolderReporter(folder)
    measured = train(stage, tiny.settings(name, **changes), dataset, reporter)
    losses = [values for _, values in reporter.history if "loss" in values]
    return {"parameters": dict(stage.named_parameters()), "losses": losses, "measured": measured}


def _without_batch_norm(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(1, child.num_features))
        else:
            _without_batch_norm(child)


def hang(rank: int, folder: Path, hung: int, timeout_seconds: float) -> None:
    """Exchange something without rank `hung`; the others' errors are written to files."""
    limit = timedelta(seconds=timeout_seconds)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=3, timeout=limit)
    rank_vote = RankVote(timeout_seconds, find_missing_seconds=2 * timeout_seconds)
    if rank_vote.any(False, rank == 1) != (False, True):
        raise AssertionError("one rank's vote counts on all")
    if rank == hung:
        time.sleep(6 * timeout_seconds)
        return
    try:
        with rank_vote.watching("hq_codebook, step 2"):
            dist.all_reduce(torch.ones(1))
    except HungRankError as error:
        (folder / f"rank-{rank}").write_text(str(error))
