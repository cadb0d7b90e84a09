"""The option `--device`, which every command that computes has."""

import argparse
from typing import TYPE_CHECKING

from daefr.errors import UserError

if TYPE_CHECKING:
    import torch  # help and mistakes in the options are shown without it


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Add `--device`; `resolve_device` reads it."""
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, or one of several GPUs such as cuda:1 (default: a GPU, or the CPU)"
    )


def resolve_device(name: str) -> "torch.device":
    """Return the device of that name; `auto` is a GPU where there is one. Raises `UserError` where it does not work."""
    import torch  # noqa: PLC0415  # it takes seconds, which help and mistakes in the options do without

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError):
        available = ["auto", "cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise UserError(f"--device {name} is not available; choose one of: {', '.join(available)}") from None
    return device
