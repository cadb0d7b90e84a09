"""Compute the statistics of a folder of real images, against which `daefr measure` computes FID.

Examples:
  daefr fid-statistics faces faces.npz
  daefr measure restored --metrics fid --fid-statistics faces.npz
"""

import argparse
from pathlib import Path

from daefr.cli.device import resolve_device
from daefr.cli.measure import add_common_options


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("images", metavar="IN", type=Path, help="a folder of images")
    parser.add_argument("target", metavar="OUT.npz", type=Path, help="file to write")
    add_common_options(parser)


def run(options: argparse.Namespace) -> int:
    """Compute; return 0, or 1 when an image was left out."""
    options.device = str(resolve_device(options.device))
    from daefr.metrics.command import compute_statistics

    return compute_statistics(options)
