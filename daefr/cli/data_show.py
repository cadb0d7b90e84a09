"""Describe a dataset, and draw some of its faces with all of their LQ images.

Examples:
  daefr data show runs/demo/steps/synthesize-XXXX/dataset --out faces.png
  daefr data show dataset/manifest.json --faces 12
"""

import argparse
import sys
from pathlib import Path

from daefr.cli.outputs import add_overwrite_option
from daefr.errors import UserError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("manifest", metavar="MANIFEST", type=Path, help="a dataset's manifest.json, or its folder")
    parser.add_argument("--out", metavar="PNG", type=Path, default=Path("dataset.png"), help="default: %(default)s")
    add_overwrite_option(parser)
    parser.add_argument("--faces", type=int, default=6, help="rows of the sheet (default %(default)s)")


def run(options: argparse.Namespace) -> int:
    """Print what the dataset holds, and write its contact sheet."""
    from daefr.data.manifest import NAME
    from daefr.data.show import describe_dataset, draw_dataset_sheet
    from daefr.files import refuse_existing, write_named
    from daefr.images import encode_png

    manifest, out = options.manifest, options.out
    if options.faces < 1:
        raise UserError(f"--faces is {options.faces}; it must be 1 or more")
    dataset = manifest.parent if manifest.name == NAME else manifest
    refuse_existing(out, "--out", overwrite=options.overwrite)
    lines = describe_dataset(dataset)
    sheet = draw_dataset_sheet(dataset, options.faces)
    if sheet is None:
        lines.append(f"sheet: none, as no shard is in {dataset}: copy one there, such as the first of train.jsonl")
    else:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            with write_named(out, "--out", overwrite=options.overwrite) as temporary:
                temporary.write_bytes(encode_png(sheet))
        except OSError as error:
            raise UserError(f"--out {out} cannot be written: {error.strerror}") from None
        lines.append(f"sheet: {out}")
    sys.stdout.write("\n".join([*lines, ""]))
    return 0
