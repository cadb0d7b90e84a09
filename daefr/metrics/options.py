"""The options of `python -m daefr measure` and `fid-statistics`, apart from the libraries that measuring loads."""

import argparse
from pathlib import Path
from typing import get_args

import torch

from daefr.metrics.base import MeasureName, Protocol

MEASURES: tuple[MeasureName, ...] = get_args(MeasureName)
WITH_TARGETS: tuple[MeasureName, ...] = ("psnr", "ssim", "niqe")
WITHOUT_TARGETS: tuple[MeasureName, ...] = ("niqe",)
# a CPU is fastest when an image's arrays stay in its cache
BATCH_ON_GPU, BATCH_ON_CPU = 16, 1


def add_measure_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `measure`."""
    parser.add_argument("restored", metavar="RESTORED", type=Path, help="a restored image, or a folder of them")
    parser.add_argument("--gt", type=Path, help="the ground truth: images of the same names, whatever their suffixes")
    parser.add_argument(
        "--measures",
        help=f"comma-separated, of {', '.join(MEASURES)} (default {','.join(WITH_TARGETS)}; without --gt niqe)",
    )
    parser.add_argument(
        "--protocol", choices=get_args(Protocol), default="paper", help="as published, or corrected (default paper)"
    )
    parser.add_argument("--fid-statistics", metavar="FILE", type=Path, help="of real images; by default of FFHQ")
    parser.add_argument("--per-image", metavar="FILE.csv", type=Path, help="keep the figures of each image")
    parser.add_argument("--overwrite", action="store_true", help="replace the file of --per-image if it exists")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    _add_common_options(parser)


def add_statistics_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `fid-statistics`."""
    parser.add_argument("images", metavar="IN", type=Path, help="a folder of images")
    parser.add_argument("target", metavar="OUT.npz", type=Path, help="file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    _add_common_options(parser)


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights", metavar="DIR", type=Path, help="published files under their own names; otherwise downloaded"
    )
    parser.add_argument("--batch", type=int, help=f"images at once (default {BATCH_ON_GPU} on a GPU, {BATCH_ON_CPU})")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
