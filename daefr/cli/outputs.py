"""The options that say what happens where the name of a result is taken."""

import argparse
from typing import get_args

from daefr.outputs import OnConflict


def add_conflict_option(parser: argparse.ArgumentParser) -> None:
    """Add `--on-conflict`, for commands that write many results into a folder."""
    parser.add_argument(
        "--on-conflict",
        choices=get_args(OnConflict),
        default="stop",
        help="where a file that this program did not make has a result's name: stop, which fails that photograph "
        "(default), or rename, which numbers the result",
    )


def add_overwrite_option(parser: argparse.ArgumentParser) -> None:
    """Add `--overwrite`, for commands that write one file which the user has named."""
    parser.add_argument("--overwrite", action="store_true", help="replace the output file if it exists")
