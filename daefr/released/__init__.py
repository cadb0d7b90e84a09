"""The released DAEFR checkpoints, in and out: `.ckpt` files of PyTorch Lightning to checkpoint directories and back."""

from daefr.released.convert import export_released, import_released, read_restoration
from daefr.released.sizes import Unseen

__all__ = ["Unseen", "export_released", "import_released", "read_restoration"]
