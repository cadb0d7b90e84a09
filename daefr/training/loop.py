"""The training loop of every stage."""

from collections import defaultdict
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from daefr import ranks
from daefr.checkpoint import Checkpoint, save_checkpoint
from daefr.data.dataset import Batch, FaceDataset, Fetch, check_resolution, training_batches, validation_batches
from daefr.data.images import Image, to_image
from daefr.network.quantizer import codebook_usage, count_codes
from daefr.stages.base import Loss, Stage
from daefr.stages.config import TrainingConfig
from daefr.training.errors import NonFiniteLossError
from daefr.training.metrics import MetricWindow, label
from daefr.training.reporter import Reporter
from daefr.training.state import TrainingState

__all__ = ["NonFiniteLossError", "Optimization", "train", "validate"]

PICTURES = 8


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
    workers: int = 0,
    refresh: int | None = None,
    check_digests: bool = False,
    fetch: Fetch | None = None,
) -> dict[str, float]:
    """Train a stage to its last step, and return its last validation.

    Runs alone or on every rank of an initialized process group. `from_scratch` says that the stage's weights are
    fresh, to be prepared with the first batch. `resume` continues a training exactly where that checkpoint left it;
    `workers` is the number of processes that decode images; `refresh`, `check_digests` and `fetch` are those of
    `daefr.data.dataset.FaceDataset`.

    Raises:
        UserError: when the dataset does not suit the stage.
        NonFiniteLossError: naming the term and the step, on every rank, before any optimizer steps on it.

    """
    device = device or torch.device("cpu")
    train_set = FaceDataset(
        dataset, "train", stage.parts, seed=seed, flip=training.flip, draw=True, refresh=refresh,
        check_digests=check_digests, fetch=fetch,
    )  # fmt: skip
    check_resolution(train_set.manifest, stage.network.autoencoder.resolution, stage.name)
    validation_set = FaceDataset(dataset, "validation", stage.parts, check_digests=check_digests, fetch=fetch)

    training.speed.prepare(stage, device).train()
    state = TrainingState(stage, training)
    if resume is not None:
        stage.load_weights(resume.tensors(), str(resume.path))
        state.load(resume.trainer())
    batches: Iterable[Batch] = training_batches(
        train_set, seed=seed, batch=training.batch, rank=ranks.rank(), ranks=ranks.count(), step=state.step,
        workers=workers,
    )  # fmt: skip
    optimization = Optimization(state, device)
    window = MetricWindow(stage.network.autoencoder.codes)
    measured: dict[str, float] = {}

    for batch in islice(batches, training.last_step - state.step):
        images = training.speed.arrange(batch, device)
        if state.step == 0 and from_scratch:
            stage.before_training(images, seed)
        output, terms = optimization.step(images)
        stage.after_step(state.step, output, seed)
        window.add(terms, stage.code_indices(output), training.batch)

        step, last = state.step, state.step == training.last_step
        if last or step % training.log_every == 0:
            values = window.flush() | {"learning_rate": training.learning_rate_at(step - 1)}
            values["skipped_samples"] = float(sum(ranks.gather(train_set.skipped + validation_set.skipped)))
            if ranks.rank() == 0:
                reporter.metrics(step, values)
        if last or step % training.validate_every == 0:
            measured, picture = validate(stage, validation_set, training.batch, device)
            if ranks.rank() == 0:
                reporter.metrics(step, measured)
            if picture is not None:
                reporter.image(step, stage.name, picture)
        if last or step % training.checkpoint_every == 0:
            reporter.checkpoint(step, lambda directory: _save(directory, state))
    if not measured:  # no step was left to take
        if resume is None:
            reporter.checkpoint(state.step, lambda directory: _save(directory, state))
        measured, _ = validate(stage, validation_set, training.batch, device)
    return measured


class Optimization:
    """One optimizer step of a stage: a single forward pass, and its losses' backward passes."""

    def __init__(self, state: TrainingState, device: torch.device) -> None:
        """Wrap the stage's networks for distributed training."""
        self._state, self._device = state, device
        stage = state.stage
        self._generator = ranks.wrap(stage.generator, device)
        self._discriminator = ranks.wrap(stage.discriminator, device) if stage.discriminator else None

    def step(self, images: Batch) -> tuple[Any, dict[str, Tensor]]:
        """Train on one batch; return the generator's output and every scalar worth logging, on the device."""
        state, stage = self._state, self._state.stage
        adversarial, autocast = stage.is_adversarial(state.step), state.training.speed.autocast_on(self._device)
        with autocast:
            output = self._generator(stage.generator_input(images))
            loss = stage.generator_loss(output, images, adversarial=adversarial, average=ranks.average)
        terms = loss.terms | {"loss": loss.total.detach()}
        terms["gradient_norm"] = self._descend("generator", loss)
        if adversarial and self._discriminator is not None:
            with autocast:
                loss = stage.discriminator_loss(self._discriminator(*stage.discriminator_input(output, images)))
            terms |= loss.terms
            terms["discriminator_gradient_norm"] = self._descend("discriminator", loss)
        state.step += 1
        return output, terms

    def _descend(self, name: str, loss: Loss) -> Tensor:
        optimizer = self._state.optimizers[name]
        optimizer.zero_grad()
        torch.autograd.backward(loss.total)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if not torch.isfinite(norm + ranks.average(loss.total.detach())):
            self._refuse(loss)
        for group in optimizer.param_groups:
            group["lr"] = self._state.training.learning_rate_at(self._state.step)
        optimizer.step()
        return norm

    def _refuse(self, loss: Loss) -> None:
        # gradients and loss are averages over the ranks, so all ranks come here, and can tell each other why
        mine = [f"{name} on rank {ranks.rank()}" for name, term in loss.terms.items() if not torch.isfinite(term)]
        names = (
            ", ".join(name for part in ranks.gather(mine) for name in part)
            or "the gradients, while every term is finite"
        )
        raise NonFiniteLossError(
            f"{self._state.stage.name}: not a finite number at step {self._state.step + 1}: {names}"
        )


@torch.no_grad()
def validate(
    stage: Stage, dataset: FaceDataset, batch: int, device: torch.device
) -> tuple[dict[str, float], Image | None]:
    """Measure a stage on all validation samples, on all ranks together.

    Returns the losses and the codebooks' usage, under names that begin with `validation_`, the same on every rank and
    for any number of ranks; and on rank 0 a picture of the first samples, a column each.
    """
    stage.eval()
    sums: dict[str, float] = defaultdict(float)
    counts: dict[str, Tensor] = {}
    picture = None
    for cpu_images in validation_batches(dataset, batch=batch, rank=ranks.rank(), ranks=ranks.count()):
        images = {name: image.to(device) for name, image in cpu_images.items()}
        output = stage.generator(stage.generator_input(images))
        loss = stage.generator_loss(output, images, adversarial=False, average=ranks.average)
        samples = len(next(iter(images.values())))
        for name, term in ({"loss": loss.total} | loss.terms).items():
            sums[name] += float(term) * samples
        for name, used in stage.code_indices(output).items():
            used_now = count_codes(used, stage.network.autoencoder.codes).cpu()
            counts[name] = counts[name] + used_now if name in counts else used_now
        if picture is None and ranks.rank() == 0:
            picture = _grid(stage.pictures(output, images))
    stage.train()
    # a rank may have had no batch at all, so the ranks exchange what they have by name
    everyone = ranks.gather((sums, counts))
    measured: dict[str, float] = defaultdict(float)
    for part, _ in everyone:
        for name, value in part.items():
            measured[name] += value / len(dataset)
    for name in sorted({name for _, part in everyone for name in part}):
        usage = codebook_usage(torch.stack([part[name] for _, part in everyone if name in part]).sum(0))
        measured[label(name, "codebook_perplexity")] = float(usage.perplexity)
        measured[label(name, "dead_codes")] = float(usage.dead_share)
    return {f"validation_{name}": value for name, value in measured.items()}, picture


def _grid(columns: dict[str, Tensor]) -> Image:
    rows = torch.cat([column[:PICTURES].cpu() for column in columns.values()], dim=2)
    return to_image(torch.cat(list(rows), dim=2))


def _save(directory: Path, state: TrainingState) -> None:
    save_checkpoint(directory, state.stage.name, state.stage.network, state.stage.weights(), state.save())
