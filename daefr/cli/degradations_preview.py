"""Draw what a degradation recipe does to a face: a contact sheet of samples, labelled with what was drawn for each.

Examples:
  daefr degradations preview face.png --recipe daefr-severe
  daefr degradations preview face.png --recipe gfpgan --count 17 --seed 3 --out gfpgan.png
"""

import argparse
import sys
from pathlib import Path

from daefr.cli.outputs import add_overwrite_option
from daefr.errors import UserError

# stated here as well, as importing the recipes would load OpenCV and SciPy for the help
RECIPES = ("daefr-mild", "daefr-severe", "gfpgan", "codeformer", "real-esrgan")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("face", metavar="FACE", type=Path, help="a square face crop: PNG, JPEG or WebP")
    parser.add_argument("--recipe", required=True, choices=RECIPES, help="which recipe")
    parser.add_argument("--out", metavar="PNG", type=Path, default=Path("sheet.png"), help="default: %(default)s")
    add_overwrite_option(parser)
    parser.add_argument("--count", type=int, default=8, help="number of samples (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="sample i draws from [seed, i] (default %(default)s)")


def run(options: argparse.Namespace) -> int:
    """Draw the sheet, write it, and print its path."""
    import cv2

    from daefr.files import refuse_existing, write_named
    from daefr.photographs import ImageError, read_srgb
    from degradations import DegradationError, get_recipe
    from degradations.preview import draw_recipe_sheet

    for name, lowest in (("count", 1), ("seed", 0)):
        if getattr(options, name) < lowest:
            raise UserError(f"--{name} is {getattr(options, name)}; it must be {lowest} or more")
    refuse_existing(options.out, "--out", overwrite=options.overwrite)
    try:
        hq = read_srgb(options.face)
        sheet = draw_recipe_sheet(hq, get_recipe(options.recipe), options.count, options.seed)
        with write_named(options.out, "--out", overwrite=options.overwrite) as temporary:
            temporary.write_bytes(cv2.imencode(".png", sheet[..., ::-1])[1].tobytes())
    except (DegradationError, ImageError) as error:
        raise UserError(f"{options.face}: {error}") from None
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}") from None
    sys.stdout.write(f"{options.out}\n")
    return 0
