"""The training loop of every stage."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch

from daefr import ranks
from daefr.checkpoint import Checkpoint
from daefr.data.dataset import Batch, FaceDataset, check_resolution, training_batches
from daefr.data.manifest import Fetch
from daefr.precision import evaluation_precision
from daefr.settings.training import TrainingConfig
from daefr.speed import arrange_batch, prepare_network
from daefr.stages.base import Stage
from daefr.training.clock import Clock
from daefr.training.errors import StoppedError
from daefr.training.metrics import MetricWindow
from daefr.training.optimization import Optimization
from daefr.training.rank_vote import RankVote
from daefr.training.reporter import Reporter
from daefr.training.saving import Saving
from daefr.training.state import TrainingState
from daefr.training.validation import Validation


def train(
    stage: Stage,
    training: TrainingConfig,
    dataset: Path,
    reporter: Reporter,
    *,
    seed: int = 0,
    device: torch.device | None = None,
    from_scratch: bool = True,
    resume: Checkpoint | None = None,
    dataloader_workers: int = 0,
    refresh: int | None = None,
    check_digests: bool = False,
    fetch: Fetch | None = None,
    timeout_seconds: float = 1800,
) -> dict[str, float]:
    """Train a stage to its last step, and return the last validation metrics.

    Runs in one process or on every rank of an initialized process group. `from_scratch` says that the stage has random
    weights, which are initialized with the first batch. `resume` is a checkpoint to resume from, exactly;
    `dataloader_workers` is the number of processes that decode images; `refresh`, `check_digests` and `fetch` are those
    of `daefr.data.dataset.FaceDataset`. `timeout_seconds` is how long the ranks wait for each other; that of an NCCL
    process group must be longer (see `daefr.training.rank_vote.nccl_timeout_seconds`).

    Raises:
        UserError: if the dataset does not match the stage, or the settings the device.
        NonFiniteLossError: naming the term and the step, on every rank; no optimizer has used that loss, and there is
            no checkpoint of that step or a later one.
        StoppedError: if the reporter asked to stop; there is a checkpoint of the last step.
        HungRankError: naming a rank that did not answer.

    """
    device = device or torch.device("cpu")
    training.check_device(device.type)
    train_set = FaceDataset(
        dataset, "train", stage.parts, seed=seed, flip=training.horizontal_flip, draw=True, refresh=refresh,
        check_digests=check_digests, fetch=fetch,
    )  # fmt: skip
    check_resolution(train_set.manifest, stage.network.autoencoder.resolution, stage.name)
    validation_set = FaceDataset(dataset, "validation", stage.parts, check_digests=check_digests, fetch=fetch)

    prepare_network(stage, training.speed, device).train()
    state = TrainingState(stage, training)
    if resume is not None:
        state.resume(resume)
    batches = training_batches(
        train_set, seed=seed, batch=training.micro_batch_size, rank=ranks.rank(), ranks=ranks.count(),
        step=state.step * training.gradient_accumulation_steps, workers=dataloader_workers,
    )  # fmt: skip
    clock, rank_vote, saving = Clock(device), RankVote(timeout_seconds), Saving(state, reporter)
    optimization = Optimization(state, device, clock)
    window = MetricWindow(stage.network.autoencoder.codes, clock, device)
    validation = Validation(state, validation_set, reporter, device, rank_vote)
    metrics: dict[str, float] = {}

    for micro_batches in islice(_steps(batches, training, device, clock), training.last_step - state.step):
        if state.step == 0 and from_scratch:
            _initialize_weights(stage, micro_batches[0], seed, device)
        with rank_vote.watching(f"{stage.name}, step {state.step + 1}"):
            # before the step's work, so that no host is blocked by a GPU that waits for another rank's
            stop, save = rank_vote.any(reporter.should_stop(), saving.is_due())
            result = optimization.compute_gradients(micro_batches)
            optimization.apply(result)
        stage.after_step(state.step, result.output, result.indices, seed)
        window.add(result.terms, result.indices, training.global_batch_size)

        step, last = state.step, state.step == training.last_step
        logs, validates, saves = _is_due(training, step, stop=stop, save=save)
        if not (logs or validates or saves):
            continue
        with rank_vote.watching(f"{stage.name}, step {step}"):
            rank_vote.wait()
            optimization.check_finite()
            values = window.flush() if logs else {}
            skipped = sum(ranks.gather(train_set.skipped + validation_set.skipped))
        if logs and ranks.rank() == 0:
            values |= {"learning_rate": training.learning_rate_at(step - 1), "skipped_samples": float(skipped)}
            reporter.metrics(step, values | saving.flush())
        with window.paused():
            if validates:
                metrics, is_best = validation()
                saves = saves or is_best
            if saves:
                saving()
        if stop and not last:
            saving.finish()
            raise StoppedError(f"{stage.name}: stopped on request after step {step}")
    if not metrics:  # all steps were done before
        if resume is None:
            saving()
        metrics, _ = validation()
    saving.finish()
    return metrics


def _initialize_weights(stage: Stage, images: Batch, seed: int, device: torch.device) -> None:
    # not compiled for a single pass
    with evaluation_precision(device):
        stage.before_training(images, seed)


def _is_due(training: TrainingConfig, step: int, *, stop: bool, save: bool) -> tuple[bool, bool, bool]:
    """Return whether logging, validation and a checkpoint are due after a step."""
    last = step == training.last_step
    return (
        last or stop or step % training.log_every_n_steps == 0,
        last or (step % training.validate_every_n_steps == 0 and not stop),
        last or stop or save or step % training.checkpoint_every_n_steps == 0,
    )


def _steps(
    batches: Iterable[Batch], training: TrainingConfig, device: torch.device, clock: Clock
) -> Iterator[list[Batch]]:
    """Yield the micro-batches of each step, on the device."""
    source = iter(batches)
    while True:
        with clock.waiting():
            micro_batches = [next(source) for _ in range(training.gradient_accumulation_steps)]
        yield [arrange_batch(each, training.speed, device) for each in micro_batches]
