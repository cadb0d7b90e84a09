"""DAEFR: the network, its losses and stages, data, measures and restoration. Knows neither Ray nor MLflow."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daefr.restore import ImageError, Restoration, RestoredFace, Restorer

# PyTorch reads these when it is imported; what Apple's and Intel's GPUs lack is then computed on the CPU
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
os.environ.setdefault("PYTORCH_ENABLE_XPU_FALLBACK", "1")

__all__ = ["ImageError", "Restoration", "RestoredFace", "Restorer", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from daefr.version import find_version  # noqa: PLC0415  # most who import this package do not ask

        return find_version()
    # PyTorch takes seconds to import, which only those who restore have to wait for
    if name in __all__:
        import daefr.restore  # noqa: PLC0415

        return getattr(daefr.restore, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
