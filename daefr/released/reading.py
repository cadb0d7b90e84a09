"""Reading a `.ckpt` file from anywhere: tensors come in, code does not run, and what is damaged is refused."""

import re
import reprlib
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from daefr.errors import UserError

INERT = ("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",)
"""Classes that stand beside the weights as mere names: Lightning before 1.5 files the states of callbacks by class."""

PRECISIONS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64)


def read_released(path: Path) -> dict[str, Tensor]:
    """Return the tensors under `state_dict`, mapped from the file rather than read into memory where it allows that.

    PyTorch's restricted unpickler does the reading, which builds tensors and plain containers and calls nothing else.

    Raises:
        UserError: when the file is missing, damaged, asks for anything else to be built, or holds no such tensors.

    """
    content = _load(path)
    tensors = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not tensors:
        raise UserError(f"{path} is no released checkpoint: it holds no state_dict")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not name.isprintable() or not _is_plain(tensor):
            raise UserError(f"{path} is no released checkpoint: {reprlib.repr(name)} in it is no plain tensor")
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _load(path: Path) -> Any:
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    # each name gets a class of its own, as they are keys of one dictionary
    stand_ins: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (type("Inert", (), {}), name) for name in INERT
    ]
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:
            _check_archive(path)
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # a damaged or hostile file makes the unpickler raise anything
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted:
            raise UserError(
                f"{path} is refused: it holds more than tensors and plain containers, as it asks for {wanted[1]!r}"
            ) from None
        raise UserError(f"{path} is no checkpoint of PyTorch, or it is damaged or cut short") from None


def _check_archive(path: Path) -> None:
    """Compare the checksums, as mapping the file would not."""
    with zipfile.ZipFile(path) as archive:
        # PyTorch never compresses; an archive that does might unpack to any size
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise zipfile.BadZipFile("compressed")
        damaged = archive.testzip()
        if damaged:
            raise zipfile.BadZipFile(damaged)


def _is_plain(tensor: object) -> bool:
    return (
        isinstance(tensor, Tensor)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and tensor.dtype in PRECISIONS
        # a few stored numbers could pose as many
        and tensor.numel() * tensor.itemsize <= tensor.untyped_storage().nbytes()
    )
