"""Convert a released .ckpt file to a checkpoint directory, from which a stage can start and which restores faces.

Examples:
  daefr import HQ_codebook.ckpt hq --kind hq_codebook
  daefr import DAEFR_model.ckpt model
"""

import argparse
import sys
from pathlib import Path

from daefr.settings.base import STAGES
from daefr.settings.network import NetworkConfig

RELEASED = NetworkConfig()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options; those of the network are what the file's tensors do not show."""
    parser.add_argument("source", metavar="CKPT", type=Path, help="a released codebook, association or restoration")
    parser.add_argument("target", metavar="OUT", type=Path, help="checkpoint directory to write; must not exist")
    parser.add_argument("--kind", choices=STAGES, help="the stage; needed only for a codebook")
    parser.add_argument(
        "--resolution", type=int, help="side of the images, where the file does not state it (default 512)"
    )
    parser.add_argument(
        "--groups", type=int, default=RELEASED.autoencoder.groups, help="of the normalizations (default %(default)s)"
    )
    parser.add_argument(
        "--heads", type=int, default=RELEASED.predictor.heads, help="of the predictor (default %(default)s)"
    )
    parser.add_argument(
        "--fusion-heads", type=int, default=RELEASED.predictor.fusion_heads, help="of the fusion (default %(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    """Convert, and print what was written."""
    from daefr.released import Unseen, import_released

    unseen = Unseen(options.resolution, options.groups, options.heads, options.fusion_heads)
    imported = import_released(options.source, options.target, options.kind, unseen)
    resolution = imported.network.autoencoder.resolution
    sys.stdout.write(f"imported {imported.stage} at {resolution}x{resolution} pixels to {imported.path}\n")
    return 0
