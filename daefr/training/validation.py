"""Validation metrics and images of a stage.

They are computed in `daefr.precision.evaluation_precision`, because promotion compares models by them.
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
"""Batch size if the loss of a sample does not depend on others: small, so that batches spread evenly over ranks."""


class Validation:
    """Validates the weights of a training and their average, and reports the results."""

    def __init__(
        self,
        state: TrainingState,
        dataset: FaceDataset,
        reporter: Reporter,
        device: torch.device,
        rank_vote: RankVote,
    ) -> None:
        """Validate on `dataset`, computing on `device`; the ranks wait for each other with `rank_vote`."""
        self._state, self._dataset, self._reporter, self._device = state, dataset, reporter, device
        self._rank_vote = rank_vote

    def __call__(self) -> tuple[dict[str, float], bool]:
        """Return the metrics, and whether the loss is the lowest so far. Every rank must call it."""
        state = self._state
        metrics, pictures = self._validate()
        if state.average is not None:
            with state.average.in_place():
                ema_metrics, ema_pictures = self._validate()
            metrics |= {f"ema_{name}": value for name, value in ema_metrics.items()}
            pictures |= {f"{name}_ema": picture for name, picture in ema_pictures.items()}
        is_best = metrics["validation_loss"] < state.best_loss
        state.best_loss = min(metrics["validation_loss"], state.best_loss)
        if ranks.rank() == 0:
            self._reporter.metrics(state.step, metrics)
            for name, picture in pictures.items():
                self._reporter.image(state.step, f"{state.stage.name}{name}", picture)
        return metrics, is_best

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
    """Validate a stage on all validation samples, on all ranks together, which `wait` for each other before the end.

    Returns the losses and the codebook usage, with names that begin with `validation_`, equal on every rank and for any
    number of ranks; on rank 0 also images of the first samples and of the codebook usage, by the suffix of their name.
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
            # kept on the device, so that the host does not wait for every batch
            for name, term in ({"loss": loss.total} | loss.terms).items():
                _add(sums, name, to_float64(term) * samples)
            for name, indices in stage.code_indices(output).items():
                _add(counts, name, count_codes(indices, stage.network.autoencoder.codes))
            if not pictures and ranks.rank() == 0:
                pictures[""] = _grid(stage.pictures(output, images))
    stage.train()
    if wait is not None:
        wait()
    # gathered by name, because a rank may have had no batch
    gathered = ranks.gather((_to_floats(sums), {name: count.cpu() for name, count in counts.items()}))
    metrics: dict[str, float] = defaultdict(float)
    for rank_sums, _ in gathered:
        for name, value in rank_sums.items():
            metrics[name] += value / len(dataset)
    totals = {
        name: torch.stack([rank_counts[name] for _, rank_counts in gathered if name in rank_counts]).sum(0)
        for name in sorted({name for _, rank_counts in gathered for name in rank_counts})
    }
    for name, total in totals.items():
        usage = codebook_usage(total)
        metrics[label(name, "codebook_perplexity")] = float(usage.perplexity)
        metrics[label(name, "dead_codes")] = float(usage.dead_fraction)
    if ranks.rank() == 0:
        pictures["_codebook"] = draw_usage(totals)
    return {f"validation_{name}": value for name, value in metrics.items()}, pictures


def _add(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    sums[name] = sums[name] + value if name in sums else value


def _to_floats(scalars: dict[str, Tensor]) -> dict[str, float]:
    return dict(zip(scalars, torch.stack(list(scalars.values())).tolist(), strict=True)) if scalars else {}


def _grid(columns: dict[str, Tensor]) -> Image:
    rows = torch.cat([column[:PICTURES].cpu() for column in columns.values()], dim=2)
    return to_image(torch.cat(list(rows), dim=2))
