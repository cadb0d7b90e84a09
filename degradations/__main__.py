"""Command line: `python -m degradations preview FACE --recipe daefr-severe`."""

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

import cv2

from degradations.errors import DegradationError
from degradations.jpeg import decode_image
from degradations.preview import contact_sheet
from degradations.recipes import RECIPES, get_recipe


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage that hides it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="python -m degradations", description="Look at what a recipe does to a face.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    preview = commands.add_parser("preview", help="write a labelled contact sheet")
    preview.add_argument("face", type=Path, help="a square face crop: PNG, JPEG or WebP")
    preview.add_argument("--recipe", required=True, help=f"one of: {', '.join(RECIPES)}")
    preview.add_argument("--out", type=Path, default=Path("sheet.png"), help="where the sheet goes (%(default)s)")
    preview.add_argument("--overwrite", action="store_true", help="replace that file if it exists")
    preview.add_argument("--count", type=_positive, default=8, help="number of samples (%(default)s)")
    preview.add_argument("--seed", type=_natural, default=0, help="sample i draws from [seed, i] (%(default)s)")
    return parser.parse_args(argv)


def _preview(face: Path, recipe_name: str, out: Path, count: int, seed: int, *, overwrite: bool) -> None:
    taken = DegradationError(f"--out {out} already exists: give another name, or --overwrite to replace it.")
    if os.path.lexists(out) and not overwrite:
        raise taken
    recipe = get_recipe(recipe_name)
    try:
        hq = decode_image(face.read_bytes())
    except DegradationError:
        raise DegradationError(f"{face} is not an image; PNG, JPEG and WebP are.") from None
    sheet = contact_sheet(hq, recipe, count, seed)
    encoded = cv2.imencode(".png", sheet[..., ::-1])[1]
    try:
        with out.open("wb" if overwrite else "xb") as stream:
            stream.write(encoded.tobytes())
    except FileExistsError:  # another program has made it meanwhile
        raise taken from None


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 0 when the sheet is written, 2 after one line on stderr."""
    arguments = _parse(argv)
    try:
        _preview(
            arguments.face,
            arguments.recipe,
            arguments.out,
            arguments.count,
            arguments.seed,
            overwrite=arguments.overwrite,
        )
    except DegradationError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"error: {error.filename}: {error.strerror}.\n")
        return 2
    sys.stdout.write(f"{arguments.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
