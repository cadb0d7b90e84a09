"""Restoring faces with a trained model: photographs and aligned crops, in memory and as files."""

from daefr.restore.files import Outcome, Wanted, list_files, restore_files, result_names, side_by_side
from daefr.restore.model import FOR_RESTORING, load_restoration, open_model
from daefr.restore.photograph import ImageError, Photograph, Source, read_photograph
from daefr.restore.restorer import Opened, Restoration, RestoredFace, Restorer

__all__ = [
    "FOR_RESTORING",
    "ImageError",
    "Opened",
    "Outcome",
    "Photograph",
    "Restoration",
    "RestoredFace",
    "Restorer",
    "Source",
    "Wanted",
    "list_files",
    "load_restoration",
    "open_model",
    "read_photograph",
    "restore_files",
    "result_names",
    "side_by_side",
]
