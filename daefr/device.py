"""Which device computes: the option `--device`, which every command that computes has, and what chooses for others."""

import argparse
import re
import sys
import warnings
from typing import TYPE_CHECKING, Any

from daefr.errors import UserError

if TYPE_CHECKING:
    import torch  # help and mistakes in the options are shown without it

AUTO = "auto"
FALLBACK = re.compile(r"fall ?back\b.*\bCPU\b", re.DOTALL)
OPERATOR = re.compile(r"operator '([^']+)'")


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Add `--device`; `resolve_device` reads it."""
    parser.add_argument(
        "--device",
        default=AUTO,
        help="cpu, cuda, mps (Apple) or xpu (Intel), or one of several GPUs such as cuda:1 (default auto: a GPU, or "
        "the CPU)",
    )


def resolve_device(name: str) -> "torch.device":
    """Return the device that `--device` names; on a terminal, what it leaves to the CPU is said in one line.

    Raises `UserError` where it does not work.
    """
    device = choose_device(name, "--device ")
    if device.type not in ("cpu", "cuda"):
        _report_fallbacks_in_one_line()
    return device


def choose_device(name: "str | torch.device | None" = None, option: str = "device ") -> "torch.device":
    """Return the device of that name; without one, or for `auto`, an accelerator where there is one, or else the CPU.

    `option` precedes the name in the error. Raises `UserError` where the device does not work.
    """
    import torch  # noqa: PLC0415  # it takes seconds, which help and mistakes in the options do without

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name is None or name == AUTO:
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, ImportError, TypeError):
        available = [AUTO, "cpu"]
        if accelerator is not None:
            count = torch.accelerator.device_count()
            available += [accelerator.type, *(f"{accelerator.type}:{index}" for index in range(count) if count > 1)]
        raise UserError(f"{option}{name} is not available; choose one of: {', '.join(available)}") from None
    return device


def worker_device(use_gpu: bool) -> "torch.device":
    """Return the device of a worker that has reserved a GPU or none; raises `UserError` where there is no GPU."""
    device = choose_device(AUTO if use_gpu else "cpu")
    if use_gpu and device.type == "cpu":
        raise UserError("use_gpu=true, but PyTorch finds no GPU on this node: is this its build for the CPU alone?")
    return device


def _report_fallbacks_in_one_line() -> None:
    """Show in one line, once, that a device lacks an operation; PyTorch's warning names a line of its own sources."""
    show_other = warnings.showwarning
    said: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
        text = str(message)
        if not FALLBACK.search(text):
            show_other(message, category, *place)
            return
        operator = OPERATOR.search(text)
        what = operator[1] if operator else "some operations"
        if what not in said:
            said.add(what)
            sys.stderr.write(f"the device lacks {what}: computed on the CPU instead, which is slower\n")

    warnings.showwarning = show  # type: ignore[assignment]
