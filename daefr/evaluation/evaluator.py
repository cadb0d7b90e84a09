"""From the images of a benchmark to figures of each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from daefr.evaluation.method import Method, MethodOutput, TrainedModel
from daefr.evaluation.subjects import Subject, column
from daefr.images import Image, encode_webp, fit, shrink
from daefr.metrics.meter import MetricSet
from daefr.metrics.pairs import Images

THUMBNAIL = 192
NO_METHOD = "missing: nothing was restored for it"


@dataclass(frozen=True)
class EvaluationSample:
    """One image of a benchmark, each part (H, W, 3) uint8 RGB of any side, None where there is none.

    `restored` is what was made of it elsewhere; with it, no method restores it.
    """

    name: str
    lq: Image | None = None
    hq: Image | None = None
    restored: Image | None = None


@dataclass(frozen=True)
class Evaluated:
    """What became of one sample: its figures by column, or the problem for which it has none.

    `features` (F,) are those for FID; `codes` are those of the restored face; `thumbnails` are WebP files of LQ, HQ
    and restored face, at most 192 pixels a side.
    """

    name: str
    problem: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    features: dict[Subject, Tensor] = field(default_factory=dict)
    codes: NDArray[np.int64] | None = None
    thumbnails: dict[str, bytes] = field(default_factory=dict)


class _Shown(NamedTuple):
    """A sample as it is measured: every image of the restored one's size."""

    name: str
    images: dict[Subject, Image]
    hq: Image | None
    codes: NDArray[np.int64] | None


class Evaluator:
    """Restores samples and measures LQ and what was restored.

    Faces are restored at the method's resolution: a larger HQ is shrunk to it, and LQ resized, as the datasets are.
    What was restored elsewhere has to be of its ground truth's size.
    """

    def __init__(
        self, measures: MetricSet, method: Method | None = None, *, batch: int = 1, reconstruct: bool = False
    ) -> None:
        """Take measures, and the method where the samples are not restored yet; `batch` images are in work at once.

        With `reconstruct`, a trained model's codebook is measured too, on samples that have HQ.
        """
        self._measures, self._method, self._batch = measures, method, batch
        self._codebook = method if reconstruct and isinstance(method, TrainedModel) else None

    def __call__(self, samples: Sequence[EvaluationSample]) -> Iterator[Evaluated]:
        """Yield what became of each sample, in order."""
        for start in range(0, len(samples), self._batch):
            yield from self._evaluate(samples[start : start + self._batch])

    def _evaluate(self, samples: Sequence[EvaluationSample]) -> Iterator[Evaluated]:
        shown = [
            _compose(sample, restored) if isinstance(restored, MethodOutput) else Evaluated(sample.name, restored)
            for sample, restored in zip(samples, self._restore(samples), strict=True)
        ]
        for kind, group in groupby(shown, key=_kind):
            if kind is None:
                yield from (each for each in group if isinstance(each, Evaluated))
            else:
                yield from self._measure([each for each in group if isinstance(each, _Shown)])

    def _restore(self, samples: Sequence[EvaluationSample]) -> list[MethodOutput | str]:
        """Return what is restored of each sample, or why nothing is."""
        outcomes = [self._input(sample) for sample in samples]
        inputs = [outcome for outcome in outcomes if isinstance(outcome, np.ndarray)]
        restored = iter(self._method.restore(inputs) if self._method is not None and inputs else [])
        return [next(restored) if isinstance(outcome, np.ndarray) else outcome for outcome in outcomes]

    def _input(self, sample: EvaluationSample) -> Image | MethodOutput | str:
        if sample.restored is not None:
            return MethodOutput(sample.restored)
        if self._method is None or sample.lq is None:
            return NO_METHOD
        height, width = sample.lq.shape[:2]
        if height != width:
            return f"not square: {width}x{height} pixels, where an aligned crop is wanted"
        return fit(sample.lq, self._method.resolution)

    def _measure(self, ready: Sequence[_Shown]) -> Iterator[Evaluated]:
        """Measure samples of one kind, of which there is at least one."""
        if self._codebook is not None and (targets := [each.hq for each in ready if each.hq is not None]):
            for each, image in zip(ready, self._codebook.reconstruct(targets), strict=True):
                each.images["hq_codebook"] = image
        figures: list[dict[str, float]] = [{} for _ in ready]
        features: list[dict[Subject, Tensor]] = [{} for _ in ready]
        for subject in ready[0].images:
            measured = self._measures([_tensors(each, subject) for each in ready])
            for number, row in enumerate(measured.rows):
                figures[number] |= {column(name, subject): value for name, value in row.items()}
                if measured.features is not None:
                    features[number][subject] = measured.features[number]
        for each, mine, theirs in zip(ready, figures, features, strict=True):
            yield Evaluated(each.name, "", mine, theirs, each.codes, _thumbnails(each))


def _compose(sample: EvaluationSample, restored: MethodOutput) -> _Shown | Evaluated:
    height, width = restored.image.shape[:2]
    hq = sample.hq
    if hq is not None and sample.restored is None and hq.shape[0] == hq.shape[1] >= height:
        hq = shrink(hq, height)
    if hq is not None and hq.shape != restored.image.shape:
        sizes = f"{width}x{height} pixels, its ground truth {hq.shape[1]}x{hq.shape[0]}"
        return Evaluated(sample.name, f"the restored image has {sizes}")
    images: dict[Subject, Image] = {}
    if sample.lq is not None:
        images["lq"] = _resize(sample.lq, width, height)
    return _Shown(sample.name, images | {"restored": restored.image}, hq, restored.codes)


def _resize(image: Image, width: int, height: int) -> Image:
    if image.shape[0] == image.shape[1] and width == height:
        return fit(image, width)
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _kind(shown: _Shown | Evaluated) -> tuple[object, ...] | None:
    """Return what images have in common that can be measured together; None for one with a problem."""
    if isinstance(shown, Evaluated):
        return None
    return (shown.images["restored"].shape, "lq" in shown.images, shown.hq is not None)


def _tensors(shown: _Shown, subject: Subject) -> Images:
    hq = None if shown.hq is None else _as_tensor(shown.hq)
    return Images(shown.name, _as_tensor(shown.images[subject]), hq)


def _as_tensor(image: Image) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _thumbnails(shown: _Shown) -> dict[str, bytes]:
    pictures: dict[str, Image | None] = {"hq": shown.hq}
    pictures |= {name: image for name, image in shown.images.items() if name != "hq_codebook"}
    return {name: encode_webp(_small(image)) for name, image in pictures.items() if image is not None}


def _small(image: Image) -> Image:
    height, width = image.shape[:2]
    factor = THUMBNAIL / max(height, width)
    if factor >= 1:
        return image
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
