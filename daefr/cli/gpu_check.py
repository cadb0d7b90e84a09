"""Check and benchmark this project on a GPU, without Ray and MLflow, in at most 8 minutes.

Examples:
  daefr gpu-check --json h100.json
  daefr gpu-check --quick --device cpu
  daefr gpu-check --only machine,steps --minutes 3
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from daefr.device import add_device_option, resolve_device
from daefr.errors import UserError
from daefr.files import refuse_existing
from daefr.gpu_check.names import ITEM_NAMES


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_device_option(parser)
    parser.add_argument("--quick", action="store_true", help="narrow networks and small images, for a CPU")
    parser.add_argument("--json", metavar="FILE", type=Path, help="file for all metrics, rewritten after each check")
    parser.add_argument("--overwrite", action="store_true", help="replace the file of --json if it exists")
    parser.add_argument("--golden", metavar="DIR", type=Path, help="golden outputs of the reference implementation")
    parser.add_argument("--detector", metavar="PATH", type=Path, help="RetinaFace weights, to time whole photographs")
    parser.add_argument(
        "--only", metavar="ITEM,...", type=_items, default=ITEM_NAMES, help=f"some of {', '.join(ITEM_NAMES)}"
    )
    parser.add_argument("--minutes", type=float, help="time limit (default 8, with --quick 3)")


def run(options: argparse.Namespace) -> int:
    """Run the checks; return 0, or 1 when one of them failed. Raises `UserError` for options that do not exist here."""
    for option in ("golden", "detector"):
        path: Path | None = getattr(options, option)
        if path is not None and not path.exists():
            raise UserError(f"--{option} {path} does not exist")
    if options.json is not None:
        refuse_existing(options.json, "--json", overwrite=options.overwrite)
    # what deterministic products need; the size is the default of current GPUs
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    device = resolve_device(options.device)
    import torch

    from daefr.gpu_check.context import Context
    from daefr.gpu_check.items import ITEMS
    from daefr.gpu_check.runner import Runner

    if options.quick:
        # tiny tensors are slower on several threads than on one, on a busy machine by far
        torch.set_num_threads(1)
    minutes = options.minutes or (3 if options.quick else 8)
    about = {"device": str(device), "quick": options.quick, "torch": torch.__version__, "minutes": minutes}
    # the times of single checks are those of a GPU
    runner = Runner(60 * minutes, options.json, about, limit_checks=not options.quick, overwrite=options.overwrite)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
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
    unknown = sorted(set(chosen) - set(ITEM_NAMES))
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown item {unknown[0]}; choose among {', '.join(ITEM_NAMES)}")
    return tuple(name for name in ITEM_NAMES if name in chosen)
