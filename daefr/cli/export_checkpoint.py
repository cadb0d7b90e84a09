"""Convert a checkpoint directory to a .ckpt file in the format of the released ones.

Examples:
  daefr export hq HQ_codebook.ckpt
  daefr export checkpoint DAEFR_mine.ckpt --like DAEFR_model.ckpt
"""

import argparse
import sys
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("source", metavar="DIR", type=Path, help="a checkpoint directory")
    parser.add_argument("target", metavar="CKPT", type=Path, help="file to write; must not exist")
    parser.add_argument(
        "--like", metavar="CKPT", type=Path, help="a released file of the same kind, for tensors that DIR lacks"
    )


def run(options: argparse.Namespace) -> int:
    """Convert, and print what was written and what was left out."""
    from daefr.released import export_released

    exported = export_released(options.source, options.target, options.like)
    sys.stdout.write(f"exported {exported.tensors} tensors to {options.target}\n")
    if exported.left_out:
        sys.stdout.write(
            f"left out {len(exported.left_out)} that {options.source} does not have, such as {exported.left_out[0]}: "
            "--like CKPT takes them from a released file\n"
        )
    return 0
