"""Restoration of whole photographs: which fraction of the time is spent outside the network."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import cv2
import numpy as np

from daefr.faces.detected import DetectedFace
from daefr.faces.detector import Detector
from daefr.gpu_check.checks import Check, CheckResult, Metrics, NotAvailableError
from daefr.gpu_check.context import Context
from daefr.gpu_check.workload import restoration_stage
from daefr.images import Image
from daefr.portraits import draw_portrait
from daefr.restore import Restorer

FACES = ((0.10, 0.25), (0.55, 0.40))
"""Upper left corners of the portraits in a photograph, relative to its width and height."""
Timers = dict[str, float]


class KnownFaces:
    """Returns the known faces of the photographs instead of detecting them."""

    def __init__(self, faces: list[DetectedFace]) -> None:
        self._faces = faces

    def find(self, image: Image) -> list[DetectedFace]:  # noqa: ARG002  # every photograph has the same
        """Return the faces."""
        return self._faces


def checks(context: Context) -> Iterator[Check]:
    """Check with known faces, and with a detector if its weights are given."""
    yield Check("known faces: decode, align, restore, paste", partial(_run, context, detect=False), seconds=60)
    yield Check("with the face detector", partial(_run, context, detect=True), seconds=60)


def _run(context: Context, *, detect: bool) -> CheckResult:
    if detect and context.detector is None:
        raise NotAvailableError("requires --detector PATH, the weights of RetinaFace")
    timers: Timers = defaultdict(float)
    count = 2 if context.quick else 8
    photographs, faces = _photographs(count, context.quick)
    detector = Detector.load(context.detector, context.device) if detect else KnownFaces(faces)
    _time(detector, "find", "detector", timers, context)
    stage = restoration_stage(context)
    _time(stage.generator, "restore", "network", timers, context)
    restorer = Restorer(stage, context.device, detector=detector)
    restorer(photographs[0])
    timers.clear()
    found, start = 0, time.perf_counter()
    for first in range(0, count, 4):
        for result in restorer.restore_all(photographs[first : first + 4]):
            if isinstance(result, Exception):
                raise result
            found += len(result.faces)
            encode = time.perf_counter()
            result.png()
            timers["encode"] += time.perf_counter() - encode
    total = time.perf_counter() - start
    metrics: Metrics = {
        "photographs_per_second": count / total,
        "faces_per_second": found / total,
        "faces_per_photograph": found / count,
        "fraction_outside_network": 1 - timers["network"] / total,
        **{f"fraction_{name}": seconds / total for name, seconds in timers.items()},
    }
    return CheckResult(metrics, [] if found else ["no face was found"])


def _time(owner: Any, method: str, name: str, timers: Timers, context: Context) -> None:
    """Replace a method with one that adds its seconds to a timer."""
    original: Callable[..., Any] = getattr(owner, method)

    def timed(*arguments: Any) -> Any:
        context.synchronize()
        start = time.perf_counter()
        result = original(*arguments)
        context.synchronize()
        timers[name] += time.perf_counter() - start
        return result

    setattr(owner, method, timed)


def _photographs(count: int, quick: bool) -> tuple[list[bytes], list[DetectedFace]]:
    """Return JPEG files of photographs with two faces, of 12 megapixels unless quick, and those faces."""
    width, height, side = (480, 320, 160) if quick else (4000, 3000, 1000)
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    backdrop = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    portraits = [draw_portrait(number, side) for number in range(len(FACES))]
    found = []
    for portrait, (x, y) in zip(portraits, FACES, strict=True):
        corner = np.array([int(x * width), int(y * height)], np.float32)
        left, top = corner.astype(int)
        backdrop[top : top + side, left : left + side] = portrait.image
        box = np.concatenate([corner, corner + side]).astype(np.float32)
        found.append(DetectedFace(box, 0.99, portrait.landmarks + corner))
    file = cv2.imencode(".jpg", backdrop[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
    return [file] * count, found
