"""Measure restored images, alone or against their ground truth.

Images belong together by their names, whatever their formats. What is missing or unusable is named, counted and left
out.

Examples:
  daefr measure restored --gt gt
  daefr measure restored --gt gt --metrics psnr,ssim,lpips,fid,niqe,ida,lmd --per-image each.csv
  daefr measure results/restored_faces --gt gt --suffix _00
  daefr measure restored --json --device cpu
"""

import argparse
from pathlib import Path
from typing import get_args

from daefr.cli.outputs import add_overwrite_option
from daefr.device import add_device_option, resolve_device
from daefr.metrics.options import BATCH_ON_CPU, BATCH_ON_GPU, WITH_TARGETS
from daefr.settings.metrics import METRICS, Protocol


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("restored", metavar="RESTORED", type=Path, help="a restored image, or a folder of them")
    parser.add_argument("--gt", type=Path, help="the ground truth: images of the same names, whatever their formats")
    parser.add_argument(
        "--suffix", default="", help="what follows the name in RESTORED: with _00, 0_00.png belongs to 0.png of --gt"
    )
    parser.add_argument(
        "--metrics",
        help=f"comma-separated, of {', '.join(METRICS)} (default {','.join(WITH_TARGETS)}; without --gt niqe)",
    )
    parser.add_argument(
        "--protocol", choices=get_args(Protocol), default="paper", help="as published, or corrected (default paper)"
    )
    parser.add_argument("--fid-statistics", metavar="FILE", type=Path, help="of real images (default: of FFHQ)")
    parser.add_argument("--per-image", metavar="FILE.csv", type=Path, help="write the values of each image")
    add_overwrite_option(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_common_options(parser)


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `daefr fid-statistics` has as well."""
    parser.add_argument(
        "--weights", metavar="DIR", type=Path, help="published files under their own names; otherwise downloaded"
    )
    parser.add_argument("--batch", type=int, help=f"images at once (default {BATCH_ON_GPU} on a GPU, {BATCH_ON_CPU})")
    add_device_option(parser)


def run(options: argparse.Namespace) -> int:
    """Measure; return 0, or 1 when an image or a metric was left out."""
    options.device = str(resolve_device(options.device))
    from daefr.metrics.command import measure

    return measure(options)
