"""Restores and measures the images of a benchmark."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from daefr.evaluation.image_kinds import ImageKind, column
from daefr.evaluation.method import Method, MethodOutput, TrainedModel
from daefr.images import Image, encode_webp, fit, shrink
from daefr.metrics.meter import MetricSet
from daefr.metrics.pairs import Images

THUMBNAIL = 192
NOT_RESTORED = "missing: no restored image"


@dataclass(frozen=True)
class EvaluationSample:
    """One sample of a benchmark; each image is (H, W, 3) uint8 RGB of any size, None if absent.

    With `restored`, a precomputed result, the sample is only measured.
    """

    name: str
    lq: Image | None = None
    hq: Image | None = None
    restored: Image | None = None


@dataclass(frozen=True)
class ImageResult:
    """The result of one sample: its metrics by column, or why there are none.

    `features` (F,) are for FID, `codes` are those of the restored face, and `thumbnails` are WebP files of LQ, HQ and
    restored face with sides of at most 192 pixels.
    """

    name: str
    problem: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    features: dict[ImageKind, Tensor] = field(default_factory=dict)
    codes: NDArray[np.int64] | None = None
    thumbnails: dict[str, bytes] = field(default_factory=dict)


class _Prepared(NamedTuple):
    """A sample whose images all have the size of the restored one."""

    name: str
    images: dict[ImageKind, Image]
    hq: Image | None
    codes: NDArray[np.int64] | None


class Evaluator:
    """Restores samples and measures LQ and restored images.

    Faces are restored at the method's resolution: LQ is resized to it and a larger HQ is shrunk, as in the datasets.
    Precomputed results must have the size of their ground truth.
    """

    def __init__(
        self, metrics: MetricSet, method: Method | None = None, *, batch: int = 1, reconstruct: bool = False
    ) -> None:
        """Evaluate `batch` images at a time; `method` is None for precomputed results.

        With `reconstruct`, a trained model's reconstruction of HQ is measured too.
        """
        self._metrics, self._method, self._batch = metrics, method, batch
        self._codebook = method if reconstruct and isinstance(method, TrainedModel) else None

    def __call__(self, samples: Sequence[EvaluationSample]) -> Iterator[ImageResult]:
        """Yield the result of each sample, in order."""
        for start in range(0, len(samples), self._batch):
            yield from self._evaluate(samples[start : start + self._batch])

    def _evaluate(self, samples: Sequence[EvaluationSample]) -> Iterator[ImageResult]:
        prepared = [
            _compose(sample, restored) if isinstance(restored, MethodOutput) else ImageResult(sample.name, restored)
            for sample, restored in zip(samples, self._restore(samples), strict=True)
        ]
        for key, group in groupby(prepared, key=_batch_key):
            if key is None:
                yield from (each for each in group if isinstance(each, ImageResult))
            else:
                yield from self._measure([each for each in group if isinstance(each, _Prepared)])

    def _restore(self, samples: Sequence[EvaluationSample]) -> list[MethodOutput | str]:
        """Return the restored image of each sample, or why there is none."""
        outcomes = [self._input(sample) for sample in samples]
        inputs = [outcome for outcome in outcomes if isinstance(outcome, np.ndarray)]
        restored = iter(self._method.restore(inputs) if self._method is not None and inputs else [])
        return [next(restored) if isinstance(outcome, np.ndarray) else outcome for outcome in outcomes]

    def _input(self, sample: EvaluationSample) -> Image | MethodOutput | str:
        if sample.restored is not None:
            return MethodOutput(sample.restored)
        if self._method is None or sample.lq is None:
            return NOT_RESTORED
        height, width = sample.lq.shape[:2]
        if height != width:
            return f"not an aligned crop: {width}x{height} pixels is not square"
        return fit(sample.lq, self._method.resolution)

    def _measure(self, samples: Sequence[_Prepared]) -> Iterator[ImageResult]:
        """Measure one or more samples with the same `_batch_key`."""
        results = [ImageResult(each.name, codes=each.codes, thumbnails=_thumbnails(each)) for each in samples]
        if self._codebook is not None and (targets := [each.hq for each in samples if each.hq is not None]):
            for each, image in zip(samples, self._codebook.reconstruct(targets), strict=True):
                each.images["hq_codebook"] = image
        for kind in samples[0].images:
            measured = self._metrics([_tensors(each, kind) for each in samples])
            for number, (result, row) in enumerate(zip(results, measured.rows, strict=True)):
                result.metrics.update({column(name, kind): value for name, value in row.items()})
                if measured.features is not None:
                    result.features[kind] = measured.features[number]
        yield from results


def _compose(sample: EvaluationSample, restored: MethodOutput) -> _Prepared | ImageResult:
    height, width = restored.image.shape[:2]
    hq = sample.hq
    if hq is not None and sample.restored is None and hq.shape[0] == hq.shape[1] >= height:
        hq = shrink(hq, height)
    if hq is not None and hq.shape != restored.image.shape:
        sizes = f"{width}x{height} pixels, but its ground truth has {hq.shape[1]}x{hq.shape[0]}"
        return ImageResult(sample.name, f"the restored image has {sizes}")
    images: dict[ImageKind, Image] = {}
    if sample.lq is not None:
        images["lq"] = _resize(sample.lq, width, height)
    return _Prepared(sample.name, images | {"restored": restored.image}, hq, restored.codes)


def _resize(image: Image, width: int, height: int) -> Image:
    if image.shape[0] == image.shape[1] and width == height:
        return fit(image, width)
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _batch_key(sample: _Prepared | ImageResult) -> tuple[object, ...] | None:
    """Return a key that is equal for samples that can be measured together; None for one with a problem."""
    if isinstance(sample, ImageResult):
        return None
    return (sample.images["restored"].shape, "lq" in sample.images, sample.hq is not None)


def _tensors(sample: _Prepared, kind: ImageKind) -> Images:
    hq = None if sample.hq is None else _as_tensor(sample.hq)
    return Images(sample.name, _as_tensor(sample.images[kind]), hq)


def _as_tensor(image: Image) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _thumbnails(sample: _Prepared) -> dict[str, bytes]:
    images = [("hq", sample.hq), *sample.images.items()]
    return {name: encode_webp(_shrink(image)) for name, image in images if image is not None}


def _shrink(image: Image) -> Image:
    height, width = image.shape[:2]
    factor = THUMBNAIL / max(height, width)
    if factor >= 1:
        return image
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
