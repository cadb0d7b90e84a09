"""Two ranks on one device over gloo, and NCCL with one rank."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from daefr import ranks
from daefr.data.dataset import Batch
from daefr.gpu_check.checks import Check, CheckResult, Metrics, NotAvailableError
from daefr.gpu_check.context import Context
from daefr.gpu_check.workload import Mode, Workload
from daefr.profiling import random_images
from daefr.settings.base import StageName

RANKS, STEPS = 2, 3
MODE = Mode(bfloat16=False, compiled=False)
STAGES: tuple[StageName, ...] = ("restoration", "association")
ROUNDING = 1e-3
"""Largest relative difference of losses and gradient norms between two ranks and one."""
SAME = ("restoration",)
"""Stages whose results do not depend on the number of ranks; the others have a BatchNorm per rank."""


def checks(context: Context) -> Iterator[Check]:
    """See the module."""
    yield Check("two ranks on one device over gloo", lambda: _two_ranks(context), seconds=120)
    yield Check("NCCL with one rank", lambda: _nccl(context), seconds=60)


def _two_ranks(context: Context) -> CheckResult:
    folder = context.folder / "ranks"
    folder.mkdir()
    start = time.perf_counter()
    _spawn(_train_as_rank, (context.for_process(), folder), RANKS)
    seconds = time.perf_counter() - start
    results = [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(RANKS)]
    metrics: Metrics = {"seconds": seconds}
    problems: list[str] = []
    for name in _stages(context):
        first, second = (result[name] for result in results)
        different = [
            path for path, tensor in first["parameters"].items() if not torch.equal(tensor, second["parameters"][path])
        ]
        if different:
            problems.append(f"{name}: {len(different)} parameters differ between the ranks, such as {different[0]}")
        metrics[f"{name}_seconds_per_step"] = first["seconds"]
        if name in SAME:
            alone = _train(context, name, _batch(context))
            for term in ("loss", "gradient_norm"):
                values = torch.tensor([result[name][term] for result in results]).mean(0)
                difference = float((values / torch.tensor(alone[term]) - 1).abs().max())
                metrics[f"{name}_{term}_differs_by"] = difference
                if not difference <= ROUNDING:
                    problems.append(f"{name}: {term} differs by {difference:.1e} from one rank's")
    return CheckResult(metrics, problems)


def _train_as_rank(rank: int, context: Context, folder: Path) -> None:
    _join("gloo", rank, RANKS, folder, context)
    mine = {name: image[rank::RANKS] for name, image in _batch(context).items()}
    torch.save({name: _train(context, name, mine) for name in _stages(context)}, folder / f"rank-{rank}.pt")
    dist.destroy_process_group()


def _train(context: Context, name: StageName, images: Batch) -> dict[str, Any]:
    workload = Workload(context, name, MODE, batch=len(images["hq"]))
    arranged = workload.arrange(images)
    workload.step(arranged)
    context.synchronize()
    start = time.perf_counter()
    terms = [workload.step(arranged) for _ in range(STEPS)]
    context.synchronize()
    seconds = (time.perf_counter() - start) / STEPS
    values = {term: torch.stack([each[term] for each in terms]).tolist() for term in ("loss", "gradient_norm")}
    return {"parameters": workload.parameters(), "seconds": seconds, **values}


def _stages(context: Context) -> tuple[StageName, ...]:
    return STAGES[:1] if context.quick else STAGES


def _batch(context: Context) -> Batch:
    return random_images(context.network.autoencoder.resolution, RANKS)


def _nccl(context: Context) -> CheckResult:
    if not context.on_gpu:
        raise NotAvailableError("NCCL needs a GPU")
    folder = context.folder / "nccl"
    folder.mkdir()
    start = time.perf_counter()
    _spawn(_train_over_nccl, (context.for_process(), folder), 1)
    metrics: Metrics = {"seconds": time.perf_counter() - start}
    return CheckResult(metrics | torch.load(folder / "result.pt", weights_only=True))


def _train_over_nccl(rank: int, context: Context, folder: Path) -> None:
    _join("nccl", rank, 1, folder, context)
    workload = Workload(context, "restoration", MODE, batch=1)
    network = DistributedDataParallel(workload.stage.generator, device_ids=[context.device.index or 0])
    output = network(workload.images["lq"])
    (output.logits.square().mean() + output.feature.square().mean()).backward()
    reduced = torch.ones(2**28, device=context.device)
    dist.all_reduce(reduced)
    context.synchronize()
    start = time.perf_counter()
    dist.all_reduce(reduced)
    context.synchronize()
    seconds = time.perf_counter() - start
    answers = ranks.gather("answer")
    dist.barrier()
    torch.save({"all_reduce_1_gib_seconds": seconds, "answers": len(answers)}, folder / "result.pt")
    dist.destroy_process_group()


def _join(backend: str, rank: int, count: int, folder: Path, context: Context) -> None:
    if context.on_gpu:
        torch.cuda.set_device(context.device)
    else:
        torch.set_num_threads(1)
    dist.init_process_group(backend, init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=count)


def _spawn(function: Callable[..., None], arguments: tuple[Any, ...], count: int) -> None:
    spawn(function, arguments, nprocs=count)  # type: ignore[no-untyped-call]
