"""Model files of others, above all released DAEFR checkpoints: to checkpoint directories and back."""

from daefr.released.convert import check_released, export_released, import_released, open_initial, read_restoration
from daefr.released.reading import read_tensors
from daefr.released.sizes import Unseen

__all__ = [
    "Unseen",
    "check_released",
    "export_released",
    "import_released",
    "open_initial",
    "read_restoration",
    "read_tensors",
]
