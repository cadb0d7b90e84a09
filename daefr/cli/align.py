"""Cut aligned crops of the faces out of photographs, as a training reads them.

Examples:
  daefr align photographs crops
  daefr align photographs crops --side 256 --min-score 0.95 --detector mobilenet0.25_Final.pth
"""

import argparse
from pathlib import Path

from daefr.cli.outputs import add_conflict_option
from daefr.device import add_device_option, resolve_device
from daefr.errors import UserError
from daefr.settings.faces import CROP_SIDE, FaceFilters
from daefr.settings.images import MAX_PIXELS, PIXEL_LIMIT

DEFAULTS = {"min_size": "the crops' side", "min_face": "an eighth of --min-size"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options; every filter of faces is one."""
    parser.add_argument("source", metavar="IN", type=Path, help="a photograph, or a folder of photographs")
    parser.add_argument("target", metavar="OUT", type=Path, help="folder for the crops, in the folders of IN")
    parser.add_argument("--detector", metavar="PATH", type=Path, help="RetinaFace weights (default: facexlib's)")
    parser.add_argument("--side", type=int, default=CROP_SIDE, help="of the crops, in pixels (default %(default)s)")
    for name, setting in FaceFilters.model_fields.items():
        default = DEFAULTS[name] if setting.default is None else f"{setting.default:g}"
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            metavar="X",
            help=f"{setting.description} Default: {default}".replace("%", "%%"),
        )
    parser.add_argument(
        "--max-pixels", type=int, default=MAX_PIXELS, help="larger images are not decoded (default %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, with what became of each face")
    add_conflict_option(parser)
    add_device_option(parser)


def run(options: argparse.Namespace) -> int:
    """Align; return 0, or 1 when a photograph failed or no crop was written."""
    if not 1 <= options.max_pixels <= PIXEL_LIMIT:
        raise UserError(f"--max-pixels {options.max_pixels} is out of range; choose 1 to {PIXEL_LIMIT}")
    device = resolve_device(options.device)
    from daefr.faces.command import align

    return align(options, device)
