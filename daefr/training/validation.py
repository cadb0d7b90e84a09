"""Measuring a stage on the validation samples, and what people look at beside the numbers."""

from collections import defaultdict

import torch
from torch import Tensor

from daefr import ranks
from daefr.data.dataset import FaceDataset, validation_batches
from daefr.images import Image
from daefr.network.quantizer import codebook_usage, count_codes
from daefr.stages.base import Stage
from daefr.tensors import to_image
from daefr.training.histogram import draw_usage
from daefr.training.metrics import label
from daefr.training.reporter import Reporter
from daefr.training.state import TrainingState

PICTURES = 8


class Validation:
    """Validates a training, its weights and then their average, and reports what comes out."""

    def __init__(self, state: TrainingState, dataset: FaceDataset, reporter: Reporter, device: torch.device) -> None:
        """Validate on `dataset`, which is computed on `device`."""
        self._state, self._dataset, self._reporter, self._device = state, dataset, reporter, device

    def __call__(self) -> tuple[dict[str, float], bool]:
        """Return what was measured, and whether the loss is the lowest so far. Every rank must call it."""
        state = self._state
        stage, batch = state.stage, state.training.batch
        measured, pictures = validate(stage, self._dataset, batch, self._device)
        if state.average is not None:
            with state.average.in_place():
                averaged, more = validate(stage, self._dataset, batch, self._device)
            measured |= {f"ema_{name}": value for name, value in averaged.items()}
            pictures |= {f"{name}_ema": picture for name, picture in more.items()}
        is_best = measured["validation_loss"] < state.best_loss
        state.best_loss = min(measured["validation_loss"], state.best_loss)
        if ranks.rank() == 0:
            self._reporter.metrics(state.step, measured)
            for name, picture in pictures.items():
                self._reporter.image(state.step, f"{stage.name}{name}", picture)
        return measured, is_best


@torch.no_grad()
def validate(
    stage: Stage, dataset: FaceDataset, batch: int, device: torch.device
) -> tuple[dict[str, float], dict[str, Image]]:
    """Measure a stage on all validation samples, on all ranks together.

    Returns the losses and the codebooks' usage, under names that begin with `validation_`, the same on every rank and
    for any number of ranks. On rank 0 also pictures, by what follows the stage in their name: the first samples, a
    column each, and how often each code was used.
    """
    stage.eval()
    sums: dict[str, float] = defaultdict(float)
    counts: dict[str, Tensor] = {}
    pictures: dict[str, Image] = {}
    for cpu_images in validation_batches(dataset, batch=batch, rank=ranks.rank(), ranks=ranks.count()):
        images = {name: image.to(device) for name, image in cpu_images.items()}
        output = stage.generator(stage.generator_input(images))
        loss = stage.generator_loss(output, images, adversarial=False, average=ranks.average)
        samples = len(next(iter(images.values())))
        for name, term in ({"loss": loss.total} | loss.terms).items():
            sums[name] += float(term) * samples
        for name, indices in stage.code_indices(output).items():
            used_now = count_codes(indices, stage.network.autoencoder.codes).cpu()
            counts[name] = counts[name] + used_now if name in counts else used_now
        if not pictures and ranks.rank() == 0:
            pictures[""] = _grid(stage.pictures(output, images))
    stage.train()
    # a rank may have had no batch at all, so the ranks exchange what they have by name
    everyone = ranks.gather((sums, counts))
    measured: dict[str, float] = defaultdict(float)
    for part, _ in everyone:
        for name, value in part.items():
            measured[name] += value / len(dataset)
    used = {
        name: torch.stack([part[name] for _, part in everyone if name in part]).sum(0)
        for name in sorted({name for _, part in everyone for name in part})
    }
    for name, total in used.items():
        usage = codebook_usage(total)
        measured[label(name, "codebook_perplexity")] = float(usage.perplexity)
        measured[label(name, "dead_codes")] = float(usage.dead_share)
    if ranks.rank() == 0:
        pictures["_codebook"] = draw_usage(used)
    return {f"validation_{name}": value for name, value in measured.items()}, pictures


def _grid(columns: dict[str, Tensor]) -> Image:
    rows = torch.cat([column[:PICTURES].cpu() for column in columns.values()], dim=2)
    return to_image(torch.cat(list(rows), dim=2))
