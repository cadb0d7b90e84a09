"""Photographs in, restored photographs out: what ties detector, network and paste-back together."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, get_args

import numpy as np
import numpy.typing as npt
import torch

from daefr.device import choose_device
from daefr.errors import UserError
from daefr.faces.alignment import Matrix, alignment_matrix, scale_of, warp
from daefr.faces.detected import DetectedFace
from daefr.faces.detector import Detector
from daefr.faces.template import template_landmarks
from daefr.images import Image
from daefr.locate import find_model
from daefr.photographs import ImageError, Photograph, read_photograph
from daefr.photographs.deep import Pixels, to_8_bit
from daefr.restore.encode import encode
from daefr.restore.masks import FaceParser, Mask, find_parser, whole_mask
from daefr.restore.model import FOR_RESTORING, CropRestorer, open_model
from daefr.restore.paste import Patch, match_colours, paste
from daefr.restore.sources import AnySource, as_source
from daefr.restore.tones import find_tone
from daefr.restore.upscale import Upscaler, upscale_image
from daefr.settings.faces import MIN_FACE
from daefr.settings.images import MAX_PIXELS, PIXEL_LIMIT, Pages
from daefr.settings.restore import BATCH_SIZE, SCALES
from daefr.settings.speed import Speed
from daefr.stages import RestorationStage

MIN_FACE_SIZE = 2.0
"""Pixels between eyes and mouth; what is smaller is a mistake of the detector, and has no direction."""


@dataclass(frozen=True)
class RestoredFace:
    """A face of a photograph. Coordinates are in pixels of the photograph as it came in, upright.

    `box`: (x0, y0, x1, y1) float32, and `landmarks`: (5, 2) float32, both as `daefr.faces` says. `score`: the
    detector's confidence, 0 to 1. `crop` and `restored`: (R, R, 3) uint8 RGB of sRGB at the model's resolution, what
    the network saw and what it made of it. `matrix`: (2, 3) float64, brings points of the photograph to the crop.
    """

    box: npt.NDArray[np.float32]
    landmarks: npt.NDArray[np.float32]
    score: float
    crop: Image
    restored: Image
    matrix: Matrix


@dataclass(frozen=True)
class Restoration:
    """A restored photograph. Without `faces` none was found, and it is as it was, but for the scale."""

    photograph: Photograph
    faces: list[RestoredFace]
    original: Photograph
    """What came in, upright."""
    scale: int = 1
    further: tuple["Restoration", ...] = ()
    """The pages or frames after this one, where all were asked for."""

    @property
    def is_unchanged(self) -> bool:
        """Whether nothing was done to any page."""
        return not self.face_count and self.scale == 1

    @property
    def face_count(self) -> int:
        """How many faces were restored on all pages."""
        return sum(len(page.faces) for page in (self, *self.further))

    @property
    def pages_left(self) -> int:
        """How many pages or frames of the file were not looked at."""
        return self.original.page_count - 1 - len(self.further)

    @property
    def image(self) -> Pixels:
        """(H, W, 3) RGB, uint8 or where the photograph has it uint16, in the photograph's own colour profile.

        What is restored is pasted into it. Of an aligned crop, the restored crop (R, R, 3) uint8 in sRGB.
        """
        return self.photograph.pixels

    def png(self) -> bytes:
        """Encode as PNG, with the photograph's depth, transparency and colour profile; the first page of several."""
        return encode(self.photograph, "png")


@dataclass(frozen=True)
class Opened:
    """A photograph with its faces, before they are restored: what lies between `Restorer.open` and `finish`."""

    photograph: Photograph
    faces: list[tuple[DetectedFace, Matrix]]
    crops: list[Image] = field(default_factory=list)
    """In sRGB."""
    aligned: bool = False
    scale: int = 1


class FindsFaces(Protocol):
    """What a `Restorer` needs of a `daefr.faces.detector.Detector`."""

    def find(self, image: Image) -> list[DetectedFace]:
        """Return every face of a photograph (H, W, 3) uint8 RGB."""


class Restorer:
    """Restores photographs and aligned crops with a trained model. Threads may share one."""

    def __init__(
        self,
        stage: RestorationStage,
        device: torch.device,
        speed: Speed = FOR_RESTORING,
        *,
        detector: FindsFaces | Path | None = None,
        parser: FaceParser | None = None,
        upscaler: Upscaler | None = None,
        batch: int = BATCH_SIZE,
        max_pixels: int = MAX_PIXELS,
        min_face: int = MIN_FACE,
    ) -> None:
        """Use the model of a stage; `load` makes one from a checkpoint, and tells what the arguments are."""
        if batch < 1:
            raise UserError(f"a batch of {batch} is not to be had; at least one face has to be restored at once")
        self._crops = CropRestorer(stage, device, speed)
        self._device, self._batch, self._max_pixels = device, batch, max_pixels
        self._detector, self._parser, self._upscaler = detector, parser, upscaler
        self._min_face = min_face
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        model: str | Path,
        device: torch.device | str | None = None,
        detector: str | Path | None = None,
        parser: str | Path | None = None,
        upscaler: str | Path | None = None,
        *,
        batch: int = BATCH_SIZE,
        max_pixels: int = MAX_PIXELS,
        min_face: int = MIN_FACE,
        speed: Speed = FOR_RESTORING,
    ) -> "Restorer":
        """Load a model, and what goes with it.

        Args:
            model: a checkpoint directory of the restoration stage, a released `.ckpt` file, or a run directory, of
                which the newest model is taken.
            device: such as `cpu`, `cuda:1`, `mps` or `xpu`; by default a GPU where there is one.
            detector: RetinaFace's weights; by default facexlib's, which are downloaded when they are first needed.
            parser: ParseNet's weights, for tighter masks; by default facexlib's if they are in torch's cache, else
                a soft square of the face is pasted.
            upscaler: a model file that spandrel reads, for `upscale`; by default pixels are resampled.
            batch: how many faces the network restores at once.
            max_pixels: larger photographs are refused before they are decoded.
            min_face: the smallest face that is looked for, see `daefr.faces.search.find_faces`.
            speed: autocast, memory layout and compilation.

        Raises:
            UserError: when one of them is missing, damaged, or something else.

        """
        device = choose_device(device)
        if not 1 <= max_pixels <= PIXEL_LIMIT:
            raise UserError(f"max_pixels {max_pixels} is not to be had; 1 to {PIXEL_LIMIT} are")
        weights = find_parser(None if parser is None else Path(parser))
        return cls(
            open_model(find_model(model)),
            device,
            speed,
            detector=None if detector is None else Path(detector),
            parser=None if weights is None else FaceParser.load(weights, device),
            upscaler=None if upscaler is None else Upscaler.load(Path(upscaler), device),
            batch=batch,
            max_pixels=max_pixels,
            min_face=min_face,
        )

    @property
    def resolution(self) -> int:
        """Side of restored crops, in pixels."""
        return self._crops.resolution

    def load_detector(self) -> FindsFaces:
        """Return the face detector; it is loaded once, with the first photograph if not before.

        Raises `UserError` when it cannot be had.
        """
        with self._lock:
            if self._detector is None or isinstance(self._detector, Path):
                self._detector = Detector.load(self._detector, self._device, self._min_face)
            return self._detector

    def __call__(
        self,
        source: AnySource,
        *,
        aligned: bool = False,
        only_center_face: bool = False,
        upscale: int = 1,
        pages: Pages = "first",
    ) -> Restoration:
        """Restore a photograph.

        Args:
            source: a file's path, its content (see `daefr.photographs.read_photograph`) in any buffer or binary file,
                an image of Pillow's, or a uint8 array of sRGB: RGB (H, W, 3), RGBA (H, W, 4), gray (H, W) or (H, W, 1).
            aligned: it is a square crop of one face, aligned as those of FFHQ, of any side: it is restored as a whole,
                in sRGB whatever its colour profile, and keeps its transparency.
            only_center_face: restore only the face next to the photograph's middle.
            upscale: how many times as large the photograph becomes: 1, 2 or 4. Aligned crops are not upscaled.
            pages: of several pages or frames, whether the first is restored, or all, the others into `further`.

        Raises:
            ImageError: when it cannot be restored; a sentence on why.
            UserError: when there is no detector.

        """
        (result,) = self.restore_all(
            [source], aligned=aligned, only_center_face=only_center_face, upscale=upscale, pages=pages
        )
        if isinstance(result, ImageError):
            raise result
        return result

    def open(
        self, source: AnySource, *, aligned: bool = False, only_center_face: bool = False, upscale: int = 1
    ) -> Opened:
        """Read the first page of a photograph and find its faces: the first part of what `__call__` does, and raises.

        Between this and `finish`, `restore_crops` has to restore its crops, with those of others if you like.
        """
        return self._open(read_photograph(as_source(source), self._max_pixels), aligned, only_center_face, upscale)

    def finish(self, opened: Opened, restored: Sequence[Image | ImageError]) -> Restoration:
        """Put the restored crops of an opened photograph in their places: the last part of what `__call__` does.

        Raises `ImageError` when a crop has become one.
        """
        finished = self._finish(opened, restored)
        if isinstance(finished, ImageError):
            raise finished
        return finished

    def restore_all(
        self,
        sources: Sequence[AnySource],
        *,
        aligned: bool = False,
        only_center_face: bool = False,
        upscale: int = 1,
        pages: Pages = "first",
    ) -> list[Restoration | ImageError]:
        """Restore several photographs as `__call__` does one, their faces in common batches.

        Returns for each what it became, or why it cannot be restored.
        """
        if upscale not in SCALES:
            raise UserError(f"upscaling {upscale} times is not to be had; {', '.join(map(str, SCALES))} are")
        if pages not in get_args(Pages):
            raise UserError(f"pages {pages!r} are not to be had; {', '.join(get_args(Pages))} are")

        def open_pages(source: AnySource) -> list[Opened] | ImageError:
            try:
                first = read_photograph(as_source(source), self._max_pixels, pages)
                return [self._open(page, aligned, only_center_face, upscale) for page in (first, *first.further)]
            except ImageError as error:
                return error

        opened = [open_pages(source) for source in sources]
        crops = [crop for each in opened if isinstance(each, list) for page in each for crop in page.crops]
        restored = iter(self._crops(crops, self._batch))
        return [
            each
            if isinstance(each, ImageError)
            else _in_one([self._finish(page, [next(restored) for _ in page.crops]) for page in each])
            for each in opened
        ]

    def restore_crops(self, crops: Sequence[Image]) -> list[Image]:
        """Restore aligned crops, (S, S, 3) uint8 RGB of sRGB and of any side: (R, R, 3) at the model's resolution.

        Raises `ImageError` when one of them is not square, or the model has no result for it.
        """
        for crop in crops:
            _check_square(read_photograph(crop, self._max_pixels))
        results = []
        for restored in self._crops(crops, self._batch):
            if isinstance(restored, ImageError):
                raise restored
            results.append(restored)
        return results

    def _open(self, photograph: Photograph, aligned: bool, only_center_face: bool, upscale: int) -> Opened:
        return self._open_crop(photograph) if aligned else self._find_faces(photograph, only_center_face, upscale)

    def _open_crop(self, photograph: Photograph) -> Opened:
        _check_square(photograph)
        side = len(photograph.pixels)
        box = np.array([0, 0, side, side], np.float32)
        face = DetectedFace(box, 1.0, np.array(template_landmarks(side), np.float32))
        matrix = np.eye(2, 3) * (self.resolution / side)
        return Opened(photograph, [(face, matrix)], [self._crops.resize(photograph.srgb)], aligned=True)

    def _find_faces(self, photograph: Photograph, only_center_face: bool, upscale: int) -> Opened:
        height, width = photograph.pixels.shape[:2]
        if height * width * upscale**2 > PIXEL_LIMIT:
            raise ImageError(f"too many pixels: upscaled {upscale} times, more than {PIXEL_LIMIT}")
        detector = self.load_detector()
        with self._lock:  # facexlib's network keeps its size in itself
            faces = detector.find(photograph.srgb)
        if only_center_face and faces:
            faces = [min(faces, key=lambda face: _distance(face, width / 2, height / 2))]
        opened = Opened(photograph, [], scale=upscale)
        for face in faces:
            if np.ptp(face.landmarks, axis=0).max() < MIN_FACE_SIZE:
                continue
            matrix = alignment_matrix(face.landmarks, self.resolution)
            opened.faces.append((face, matrix))
            opened.crops.append(warp(photograph.srgb, matrix, self.resolution))
        return opened

    def _finish(self, opened: Opened, restored: Sequence[Image | ImageError]) -> Restoration | ImageError:
        faces, images = [], []
        for (face, matrix), crop, image in zip(opened.faces, opened.crops, restored, strict=True):
            if isinstance(image, ImageError):
                return image
            faces.append(RestoredFace(face.box, face.landmarks, face.score, crop, image, matrix))
            tone = find_tone(crop, scale_of(matrix))
            matched = image if opened.aligned else match_colours(image, crop)
            images.append(matched if tone is None else tone.apply(matched))
        if opened.aligned:
            return Restoration(self._restored_crop(opened.photograph, images[0]), faces, opened.photograph)
        return Restoration(self._paste(opened, faces, images), faces, opened.photograph, opened.scale)

    def _restored_crop(self, photograph: Photograph, image: Image) -> Photograph:
        alpha = None if photograph.alpha is None else self._crops.resize(to_8_bit(photograph.alpha))
        return replace(photograph, pixels=image, alpha=alpha, profile=None, one_channel=False, further=())

    def _paste(self, opened: Opened, faces: Sequence[RestoredFace], images: Sequence[Image]) -> Photograph:
        photograph, scale = opened.photograph, opened.scale
        patches = []
        for face, image in zip(faces, images, strict=True):
            matrix = face.matrix.copy()
            matrix[:, :2] /= scale
            patches.append(Patch(photograph.colours.from_srgb(image), self._mask(face.restored), matrix))
        background, alpha = photograph.pixels, photograph.alpha
        if scale > 1:  # each pixel takes from its neighbours
            background = upscale_image(photograph.filled, scale, self._upscaler)
            alpha = None if alpha is None else upscale_image(alpha, scale, None)
        return replace(photograph, pixels=paste(background, patches), alpha=alpha, further=())

    def _mask(self, restored: Image) -> Mask:
        return whole_mask() if self._parser is None else self._parser(restored)


def _in_one(pages: Sequence[Restoration | ImageError]) -> Restoration | ImageError:
    """Return the first page with the others, or what is wrong with one of them."""
    whole: list[Restoration] = []
    for page in pages:
        if isinstance(page, ImageError):
            return page
        whole.append(page)
    return replace(whole[0], further=tuple(whole[1:]))


def _check_square(photograph: Photograph) -> None:
    height, width = photograph.pixels.shape[:2]
    if height != width:
        raise ImageError(f"not square: {width}x{height} pixels, where an aligned crop is wanted")


def _distance(face: DetectedFace, x: float, y: float) -> float:
    left, top, right, bottom = face.box.tolist()
    return float(np.hypot((left + right) / 2 - x, (top + bottom) / 2 - y))
