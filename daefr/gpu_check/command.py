"""The command `python -m daefr gpu-check`."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import torch

from daefr.errors import UserError
from daefr.gpu_check.context import Context
from daefr.gpu_check.items import ITEMS
from daefr.gpu_check.runner import Runner


def add_gpu_check_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cuda or cpu")
    parser.add_argument("--quick", action="store_true", help="narrow networks and small images, for a CPU")
    parser.add_argument("--json", metavar="FILE", type=Path, help="file for all figures, rewritten after each check")
    parser.add_argument("--golden", metavar="DIR", type=Path, help="golden figures of the reference implementation")
    parser.add_argument("--detector", metavar="PATH", type=Path, help="RetinaFace weights, to time whole photographs")
    parser.add_argument(
        "--only", metavar="ITEM,...", type=_items, default=tuple(ITEMS), help=f"some of {', '.join(ITEMS)}"
    )
    parser.add_argument("--minutes", type=float, help="time limit (default 8, with --quick 3)")


def gpu_check(options: argparse.Namespace) -> int:
    """Run the checks; return 0, or 1 when one of them failed. Raises `UserError` for options that do not exist here."""
    for option in ("golden", "detector"):
        path: Path | None = getattr(options, option)
        if path is not None and not path.exists():
            raise UserError(f"--{option} {path} does not exist")
    # what deterministic products need; the size is the default of current GPUs
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if options.quick:
        # tiny tensors are slower on several threads than on one, on a busy machine by far
        torch.set_num_threads(1)
    minutes = options.minutes or (3 if options.quick else 8)
    about = {"device": options.device, "quick": options.quick, "torch": torch.__version__, "minutes": minutes}
    # the times of single checks are those of a GPU
    runner = Runner(60 * minutes, options.json, about, limit_checks=not options.quick)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        device = torch.device(options.device)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        context = Context(device, options.quick, Path(folder), golden=options.golden, detector=options.detector)
        try:
            for item in options.only:
                runner.run(item, ITEMS[item](context))
        finally:
            for process in context.processes:
                process.kill()
    counts = {
        status: sum(r["status"] == status for r in runner.results) for status in ("pass", "fail", "not available")
    }
    sys.stdout.write(", ".join(f"{count} {status}" for status, count in counts.items()) + "\n")
    return 1 if runner.failed else 0


def _items(text: str) -> tuple[str, ...]:
    chosen = text.split(",")
    unknown = sorted(set(chosen) - set(ITEMS))
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown item {unknown[0]}; choose among {', '.join(ITEMS)}")
    return tuple(name for name in ITEMS if name in chosen)
