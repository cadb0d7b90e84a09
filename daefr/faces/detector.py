"""Finding faces in a photograph: facexlib's RetinaFace, with its own weights or others of the family."""

import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from daefr.errors import UserError
from daefr.faces.detected import DetectedFace
from daefr.faces.search import find_faces
from daefr.files import file_digest
from daefr.images import Image
from daefr.settings.faces import MIN_FACE

RETINAFACE_NAME = "detection_Resnet50_Final.pth"
RETINAFACE_URL = f"https://github.com/xinntao/facexlib/releases/download/v0.1.0/{RETINAFACE_NAME}"
RETINAFACE_SHA256 = "6d1de9c2944f2ccddca5f5e010ea5ae64a39845a86311af6fdf30841b0a5a16d"

LIGHT_SHA256 = "ed6fa7d45a5179f03cb5ce82c73b0c6711372968e53782e88395acee88d319e1"
"""`mobilenet0.25_Final.pth` of biubug6/Face-Detector-1MB-with-landmark (MIT). Its tensors are those of facexlib's
mobile0.25, which nothing in the file tells apart, but it was trained on smaller images, with smaller anchors and plain
ReLU."""
LIGHT_ANCHORS = [[10, 20], [32, 64], [128, 256]]
LIGHT_SIDE = 320

# a tensor that only this network has
NETWORKS = {"body.layer1.0.conv1.weight": "resnet50", "body.stage1.0.0.weight": "mobile0.25"}
# what saving a network that was wrapped for several GPUs puts before every name
WRAPPED = "module."

DETECTION_SIDE = 640
"""The first look at a photograph is at no more than this long side, in pixels."""
MIN_SCORE = 0.5
NMS_OVERLAP = 0.4
ROW = 15


class Detector:
    """A face detector that is ready to use."""

    def __init__(self, network: Any, side: int = DETECTION_SIDE, min_face: int = MIN_FACE) -> None:
        """Use a `facexlib.detection.retinaface.RetinaFace` on photographs of that long side; `load` makes one."""
        if min_face < 1:
            raise UserError(f"a smallest face of {min_face} pixels is not possible; give 1 or more")
        self._network, self.side, self._min_face = network, side, min_face

    @classmethod
    def load(cls, path: Path | None = None, device: torch.device | None = None, min_face: int = MIN_FACE) -> "Detector":
        """Load the weights at `path`, or without one facexlib's (see `find_detector`), by default onto the CPU.

        Their names tell the network, ResNet50 or MobileNet0.25. `min_face` is that of `daefr.faces.search.find_faces`.
        Raises `UserError` when the weights are missing or no RetinaFace.
        """
        path, device = find_detector(path), device or torch.device("cpu")
        weights = _read(path)
        kinds = [kind for tensor, kind in NETWORKS.items() if tensor in weights]
        if not kinds:
            raise UserError(f"{path} is no RetinaFace: it has neither {' nor '.join(NETWORKS)}")
        network = _build(kinds[0], device)
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            problem = str(error).splitlines()[-1].strip()
            raise UserError(f"{path} is no RetinaFace {kinds[0]}: {problem[:200]}") from None
        if file_digest(path) == LIGHT_SHA256:
            _make_light(network)
            return cls(network.eval(), LIGHT_SIDE, min_face)
        return cls(network.eval(), min_face=min_face)

    def find(self, image: Image) -> list[DetectedFace]:
        """Return every face of a photograph, small and turned ones too: several looks where `detect` takes one."""
        return find_faces(self, image, self._min_face)

    def detect(self, image: Image, side: int | None = None) -> list[DetectedFace]:
        """Return the faces of a photograph, (H, W, 3) uint8 RGB, in the order of reading: left to right.

        Before, it is shrunk to a long side of `side` pixels, by default the detector's own. Coordinates are rounded to
        a tenth of a pixel, as processors differ in digits beyond that.
        """
        height, width = image.shape[:2]
        scale = min(1.0, (side or self.side) / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
        bgr = np.ascontiguousarray(small[..., ::-1])
        # the same photograph, the same faces
        same = torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False, allow_tf32=False)
        with torch.inference_mode(), same:
            rows = self._network.detect_faces(bgr, MIN_SCORE, NMS_OVERLAP)
        rows = np.asarray(rows, np.float32).reshape(-1, ROW)
        enlarge = np.array([width / size[0], height / size[1]], np.float32)
        faces = [
            DetectedFace(
                box=np.round(row[:4] * np.tile(enlarge, 2), 1),
                score=round(float(row[4]), 4),
                landmarks=np.round(row[5:].reshape(5, 2) * enlarge, 1),
            )
            for row in rows
        ]
        return sorted(faces, key=lambda face: tuple(face.box.tolist()))


def find_detector(path: Path | None) -> Path:
    """Return where the detector's weights are: at `path`, or without one in torch's cache, downloaded if need be.

    The download is facexlib's ResNet50, checked by its digest. Raises `UserError` when the weights are not there and
    cannot be had.
    """
    remedy = f"download {RETINAFACE_NAME} from {RETINAFACE_URL} and give its path as the detector"
    if path is not None:
        if not path.is_file():
            raise UserError(f"there are no weights of a face detector at {path}: {remedy}")
        return path
    cached = Path(torch.hub.get_dir()) / "checkpoints" / RETINAFACE_NAME
    if not cached.is_file():
        cached.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(RETINAFACE_URL, str(cached), hash_prefix=RETINAFACE_SHA256, progress=False)
        except (OSError, RuntimeError) as error:
            raise UserError(f"the face detector cannot be downloaded ({error}): {remedy}") from None
    return cached


def _build(kind: str, device: torch.device) -> Any:
    # facexlib brings numba and takes seconds to import, which only those who detect faces have to wait for
    from facexlib.detection.retinaface import RetinaFace  # noqa: PLC0415

    with warnings.catch_warnings(action="ignore"):  # torchvision's, of an argument that facexlib names the old way
        return RetinaFace(network_name=kind, device=device)


def _make_light(network: Any) -> None:
    network.cfg["min_sizes"] = LIGHT_ANCHORS
    for layer in network.modules():
        if isinstance(layer, nn.LeakyReLU):
            layer.negative_slope = 0.0


def _read(path: Path) -> dict[str, Tensor]:
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a damaged or hostile file makes the unpickler raise anything
        raise UserError(f"{path} is no RetinaFace: it is damaged, or holds more than tensors") from None
    if not isinstance(stored, dict) or not all(isinstance(tensor, Tensor) for tensor in stored.values()):
        raise UserError(f"{path} is no RetinaFace: it is no mapping of names to tensors")
    return {str(name).removeprefix(WRAPPED): tensor for name, tensor in stored.items()}
