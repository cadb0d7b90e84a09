"""What two ranks do together for the tests; in a file of its own, as processes that are started afresh import it."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from daefr.checkpoint import Checkpoint, load_checkpoint
from daefr.data.dataset import Batch
from daefr.settings.base import StageName
from daefr.settings.training import TrainingConfig
from daefr.stages import STAGES, Loss, RestorationStage, Stage
from daefr.stages.base import Average
from daefr.training.errors import NonFiniteLossError
from daefr.training.loop import train
from daefr.training.optimization import Optimization
from daefr.training.reporter import FolderReporter
from daefr.training.state import TrainingState
from tests.daefr import tiny

RANKS = 2
PATIENCE_SECONDS = 60
REMEDIES = {"reset_every_n_steps": 4}


def both_ranks(dataset: Path, folder: Path) -> list[dict[str, Any]]:
    """Do everything below on two ranks; return what each has to tell."""
    torch.multiprocessing.spawn(_work, (dataset, folder), nprocs=RANKS)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(RANKS)]


def _work(rank: int, dataset: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=PATIENCE_SECONDS),
    )
    results: dict[str, Any] = {"stages": {name: _train(name, rank, dataset, folder) for name in STAGES}}
    results["resumed"] = _stop_and_resume(rank, dataset, folder)
    results["non_finite"] = {kind: _step_with(kind, rank) for kind in ("nan", "overflow", "finite")}
    torch.save(results, folder / f"rank-{rank}.pt")
    dist.destroy_process_group()


def _train(name: StageName, rank: int, dataset: Path, folder: Path) -> dict[str, Any]:
    reporter = FolderReporter(folder / f"{name}-{rank}")
    stage = tiny.build(name)
    measured = train(stage, tiny.settings(name), dataset, reporter)
    return {"parameters": _parameters(stage), "measured": measured, "history": reporter.history}


def _stop_and_resume(rank: int, dataset: Path, folder: Path) -> dict[str, dict[str, Tensor]]:
    """Train 5 steps, and 3 and 2 with rank 0's checkpoint, between two resets of dead codes."""
    halves = FolderReporter(folder / f"halves-{rank}")
    straight, first, second = (tiny.build("hq_codebook", codebook=REMEDIES) for _ in range(3))

    def run(stage: Stage, steps: int, resume: Checkpoint | None = None) -> dict[str, Tensor]:
        settings: TrainingConfig = tiny.settings("hq_codebook", steps=steps, codebook=REMEDIES)
        reporter = halves if stage is first else FolderReporter(folder / f"others-{rank}-{steps}-{resume is None}")
        train(stage, settings, dataset, reporter, resume=resume)
        return _parameters(stage)

    expected = run(straight, 5)
    run(first, 3)
    dist.barrier()
    return {"straight": expected, "resumed": run(second, 5, load_checkpoint(folder / "halves-0" / "step-000000003"))}


class Overflowing(RestorationStage):
    """A stage whose loss is infinite while its gradients are not."""

    def generator_loss(self, output: Any, batch: Batch, *, adversarial: bool, average: Average) -> Loss:
        loss = super().generator_loss(output, batch, adversarial=adversarial, average=average)
        return Loss(loss.total + torch.inf, loss.terms | {"feature": torch.tensor(torch.inf)})


def _step_with(kind: str, rank: int) -> dict[str, Any]:
    """Run a step in which, depending on `kind`, something is not finite on rank 1 only."""
    stage = tiny.build("restoration")
    if kind == "overflow" and rank == 1:
        stage.__class__ = Overflowing
    images = {name: torch.zeros(2, 3, tiny.SIDE, tiny.SIDE) for name in ("hq", "lq")}
    if kind == "nan" and rank == 1:
        images["lq"][0, 0, 0, 0] = torch.nan
    before = _parameters(stage)
    try:
        Optimization(TrainingState(stage.train(), tiny.settings("restoration")), torch.device("cpu")).step(images)
    except NonFiniteLossError as error:
        problem = str(error)
    else:
        problem = ""
    changed = [name for name, tensor in stage.named_parameters() if not torch.equal(tensor, before[name])]
    return {"problem": problem, "changed": len(changed)}


def _parameters(stage: Stage) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in stage.named_parameters()}
