"""Restoring faces with a trained model: photographs and aligned crops, in memory and as files."""

from daefr.photographs import ImageError, Photograph, Source, read_photograph
from daefr.restore.files import Outcome, Wanted, encode_result, list_files, restore_files, side_by_side
from daefr.restore.model import FOR_RESTORING, load_restoration, open_model
from daefr.restore.names import result_name
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
    "encode_result",
    "list_files",
    "load_restoration",
    "open_model",
    "read_photograph",
    "restore_files",
    "result_name",
    "side_by_side",
]
