"""Faces of raw photographs: found by a detector, aligned to the five-point template, filtered.

Images are (H, W, 3) uint8 RGB. Points are (x, y) in pixels of an image that spans [0, W] x [0, H], so that the middle
of its first pixel is (0.5, 0.5). The five landmarks are left eye, right eye, nose, left and right corner of the mouth;
left is the smaller x of an upright face. Only the detector needs PyTorch, which is imported with it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from daefr.faces.alignment import align, move_points
from daefr.faces.detected import DetectedFace
from daefr.faces.filters import FaceFilters

if TYPE_CHECKING:
    from daefr.faces.crops import Aligner, Crop, Found
    from daefr.faces.detector import Detector, find_detector

__all__ = [
    "Aligner",
    "Crop",
    "DetectedFace",
    "Detector",
    "FaceFilters",
    "Found",
    "align",
    "find_detector",
    "move_points",
]
_HOMES = {"Aligner": "crops", "Crop": "crops", "Found": "crops"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'detector')}"), name)
