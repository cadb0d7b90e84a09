"""Validation losses of a stage, and the pictures that are shown beside them.

They are computed in `daefr.precision.evaluation_precision`: what compares models reads them.
"""

from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor

from daefr import ranks
from daefr.data.dataset import FaceDataset, validation_batches
from daefr.images import Image
from daefr.network.quantizer import codebook_usage, count_codes
from daefr.precision import evaluation_precision
from daefr.stages.base import Stage
from daefr.tensors import to_device, to_float64, to_image
from daefr.training.histogram import draw_usage
from daefr.training.metrics import label
from daefr.training.rank_vote import RankVote
from daefr.training.reporter import Reporter
from daefr.training.state import TrainingState

PICTURES = 8
INDEPENDENT_BATCH = 4
"""Images per batch where the loss of each is its own: few, so that the batches spread evenly over many ranks."""


class Validation:
    """Validates a training, its weights and then their average, and reports what comes out."""

    def __init__(
        self,
        state: TrainingState,
        dataset: FaceDataset,
        reporter: Reporter,
        device: torch.device,
        rank_vote: RankVote,
    ) -> None:
        """Validate on `dataset`, which is computed on `device`; the ranks wait for each other in `rank_vote`."""
        self._state, self._dataset, self._reporter, self._device = state, dataset, reporter, device
        self._rank_vote = rank_vote

    def __call__(self) -> tuple[dict[str, float], bool]:
        """Return what was measured, and whether the loss is the lowest so far. Every rank must call it."""
        state = self._state
        stage = state.stage
        measured, pictures = self._validate()
        if state.average is not None:
            with state.average.in_place():
                averaged, more = self._validate()
            measured |= {f"ema_{name}": value for name, value in averaged.items()}
            pictures |= {f"{name}_ema": picture for name, picture in more.items()}
        is_best = measured["validation_loss"] < state.best_loss
        state.best_loss = min(measured["validation_loss"], state.best_loss)
        if ranks.rank() == 0:
            self._reporter.metrics(state.step, measured)
            for name, picture in pictures.items():
                self._reporter.image(state.step, f"{stage.name}{name}", picture)
        return measured, is_best

    def _validate(self) -> tuple[dict[str, float], dict[str, Image]]:
        state = self._state
        with self._rank_vote.watching(f"{state.stage.name}, validation of step {state.step}"):
            return validate(
                state.stage, self._dataset, state.training.global_batch_size, self._device, self._rank_vote.wait
            )


@torch.no_grad()
def validate(
    stage: Stage,
    dataset: FaceDataset,
    batch: int,
    device: torch.device,
    wait: Callable[[], None] | None = None,
) -> tuple[dict[str, float], dict[str, Image]]:
    """Measure a stage on all validation samples, on all ranks together; they `wait` for each other before the end.

    Returns the losses and the codebooks' usage, under names that begin with `validation_`, the same on every rank and
    for any number of ranks. On rank 0 also pictures, by what follows the stage in their name: the first samples, a
    column each, and how often each code was used.
    """
    batch = batch if stage.compares_samples else min(batch, INDEPENDENT_BATCH)
    sums: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}
    pictures: dict[str, Image] = {}
    stage.eval()
    with evaluation_precision(device):
        for cpu_images in validation_batches(dataset, batch=batch, rank=ranks.rank(), ranks=ranks.count()):
            images = {name: to_device(image, device) for name, image in cpu_images.items()}
            output = stage.generator(stage.generator_input(images))
            loss = stage.generator_loss(output, images, adversarial=False, average=ranks.average)
            samples = len(next(iter(images.values())))
            # on the device: reading a value would make the host wait for every batch
            for name, term in ({"loss": loss.total} | loss.terms).items():
                _add(sums, name, to_float64(term) * samples)
            for name, indices in stage.code_indices(output).items():
                _add(counts, name, count_codes(indices, stage.network.autoencoder.codes))
            if not pictures and ranks.rank() == 0:
                pictures[""] = _grid(stage.pictures(output, images))
    stage.train()
    if wait is not None:
        wait()
    # a rank may have had no batch at all, so the ranks exchange what they have by name
    everyone = ranks.gather((_to_floats(sums), {name: count.cpu() for name, count in counts.items()}))
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


def _add(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    sums[name] = sums[name] + value if name in sums else value


def _to_floats(scalars: dict[str, Tensor]) -> dict[str, float]:
    return dict(zip(scalars, torch.stack(list(scalars.values())).tolist(), strict=True)) if scalars else {}


def _grid(columns: dict[str, Tensor]) -> Image:
    rows = torch.cat([column[:PICTURES].cpu() for column in columns.values()], dim=2)
    return to_image(torch.cat(list(rows), dim=2))
