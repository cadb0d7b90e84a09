"""Looking at a dataset: `python -m daefr.data show MANIFEST` tells what it holds and draws some of its faces."""

import argparse
import sys
from pathlib import Path

from daefr.data.images import encode_png
from daefr.data.manifest import NAME
from daefr.data.show import contact_sheet, describe
from daefr.errors import UserError
from daefr.files import refuse_existing, write_named


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 for the user's mistake."""
    options = _parser().parse_args(arguments)
    try:
        return show(options.manifest, options.out, options.faces, overwrite=options.overwrite)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


def show(manifest: Path, out: Path, faces: int, *, overwrite: bool = False) -> int:
    """Print what the dataset of a manifest, or in a folder, holds, and write its contact sheet to `out`."""
    if faces < 1:
        raise UserError(f"--faces is {faces}; it must be 1 or more")
    dataset = manifest.parent if manifest.name == NAME else manifest
    refuse_existing(out, "--out", overwrite=overwrite)
    lines = describe(dataset)
    sheet = contact_sheet(dataset, faces)
    if sheet is None:
        lines.append(f"sheet: none, as no shard is in {dataset}: copy one there, such as the first of train.jsonl")
    else:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            with write_named(out, "--out", overwrite=overwrite) as temporary:
                temporary.write_bytes(encode_png(sheet))
        except OSError as error:
            raise UserError(f"--out {out} cannot be written: {error.strerror}") from None
        lines.append(f"sheet: {out}")
    sys.stdout.write("\n".join([*lines, ""]))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m daefr.data", description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("show", help="tell what a dataset holds, and draw some of its faces")
    command.add_argument("manifest", metavar="MANIFEST", type=Path, help="a dataset's manifest.json, or its folder")
    command.add_argument("--out", metavar="PNG", type=Path, default=Path("dataset.png"), help="default: %(default)s")
    command.add_argument("--overwrite", action="store_true", help="replace the PNG if it exists")
    command.add_argument("--faces", type=int, default=6, help="rows of the sheet (default %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
