"""Train one stage on this machine, without Ray and MLflow; alone, or started by torchrun on every rank.

The same command again resumes from the newest checkpoint in OUT, exactly where it stopped. SIGTERM and Ctrl-C store a
checkpoint first.

Examples:
  daefr train hq_codebook data/faces runs/hq steps=20000
  daefr train association data/faces runs/association --hq-codebook HQ_CHECKPOINT --lq-codebook LQ_CHECKPOINT
  torchrun --nproc-per-node 8 -m daefr train hq_codebook data/faces runs/hq --dataloader-workers 8
"""

import argparse
from pathlib import Path

from daefr.device import add_device_option, resolve_device
from daefr.settings.base import STAGES


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("stage", metavar="STAGE", choices=STAGES, help=f"one of {', '.join(STAGES)}")
    parser.add_argument("dataset", metavar="DATASET", type=Path, help="dataset folder, as the synthesis step makes it")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for checkpoints, metrics and images")
    parser.add_argument(
        "overrides", metavar="KEY=VALUE", nargs="*", help="settings of the training, or of the network as network.KEY"
    )
    parser.add_argument(
        "--config",
        metavar="YAML",
        type=Path,
        help="file with the keys `network` and `training`, or a configuration of the pipeline, of which `network` and "
        "`stages.STAGE` are read",
    )
    parser.add_argument("--initial-checkpoint", metavar="DIR", type=Path, help="checkpoint of this stage to start from")
    parser.add_argument("--hq-codebook", metavar="DIR", type=Path, help="its checkpoint, for association, restoration")
    parser.add_argument("--lq-codebook", metavar="DIR", type=Path, help="its checkpoint, for association")
    parser.add_argument("--association", metavar="DIR", type=Path, help="its checkpoint, for restoration")
    parser.add_argument("--seed", type=int, default=0, help="of weights and of the data's order (default %(default)s)")
    add_device_option(parser)
    parser.add_argument(
        "--dataloader-workers", type=int, default=0, help="processes per rank that decode images (default %(default)s)"
    )
    parser.add_argument("--keep-last", type=int, default=2, help="newest checkpoints to keep (default %(default)s)")
    parser.add_argument("--tensorboard", metavar="DIR", type=Path, help="also write TensorBoard events to this folder")


def run(options: argparse.Namespace) -> int:
    """Train; return 0, 1 when the training failed, or 128 + the signal that stopped it. Raises `UserError`."""
    from daefr import train

    return train.run(options, resolve_device(options.device))
