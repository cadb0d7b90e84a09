"""Restore the faces of photographs, or aligned crops of faces.

Every face is found, restored and pasted back; all other pixels keep their values. Results are PNG files below OUT, in
the folders of IN: photo.png for photo.png, photo.jpg.png for photo.jpg. Run again, it continues with the photographs
that have no result yet.

Examples:
  daefr restore photographs restored --model runs/demo
  daefr restore photo.jpg restored.jpg --model DAEFR_model.ckpt --upscale 2
  daefr restore photographs restored --model runs/demo --format same --metadata basic
  daefr restore crops restored --aligned --model checkpoint --device cuda:1
"""

import argparse
from pathlib import Path
from typing import get_args

from daefr.cli.outputs import add_conflict_option
from daefr.device import add_device_option, resolve_device
from daefr.locate import find_model
from daefr.settings.faces import MIN_FACE
from daefr.settings.images import Pages
from daefr.settings.restore import BATCH_SIZE, SCALES, Format, Metadata


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("source", metavar="IN", type=Path, help="a photograph, or a folder of photographs")
    parser.add_argument(
        "target",
        metavar="OUT",
        type=Path,
        help="folder for the results; for one photograph, also a file, such as x.jpg",
    )
    parser.add_argument(
        "--model",
        required=True,
        help="a checkpoint directory, a released .ckpt file, or a run directory, of which the newest model is taken",
    )
    parser.add_argument(
        "--aligned",
        action="store_true",
        help="the files are aligned crops of faces; results are sRGB, into which a colour profile is converted",
    )
    parser.add_argument("--only-center-face", action="store_true", help="restore only the face next to the middle")
    parser.add_argument(
        "--upscale", type=int, choices=SCALES, default=1, help="enlarge photographs this many times (default 1)"
    )
    parser.add_argument(
        "--min-face",
        metavar="PIXELS",
        type=int,
        default=MIN_FACE,
        help="smallest face that is looked for; the larger, the faster (default %(default)s)",
    )
    parser.add_argument("--upscaler", metavar="PATH", type=Path, help="spandrel model (default: resampling)")
    parser.add_argument("--detector", metavar="PATH", type=Path, help="RetinaFace weights (default: facexlib's)")
    parser.add_argument("--parser", metavar="PATH", type=Path, help="ParseNet weights, for tighter masks")
    parser.add_argument(
        "--format",
        choices=get_args(Format),
        help="of the results; jpg and webp are lossy, same is the photograph's own (default: png, or as OUT is called)",
    )
    parser.add_argument(
        "--metadata",
        choices=get_args(Metadata),
        default="none",
        help="EXIF, XMP and resolution to carry over: none (default), basic, which leaves out the place, or all",
    )
    parser.add_argument(
        "--pages",
        choices=get_args(Pages),
        default="first",
        help="of several pages or frames restore the first (the default), or all, which takes --format tiff",
    )
    parser.add_argument("--suffix", default="", help="inserted before the last suffix of a result's name")
    parser.add_argument("--side-by-side", action="store_true", help="write before and after beside each other")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with each photograph's faces")
    add_conflict_option(parser)
    parser.add_argument(
        "--batch", type=int, default=BATCH_SIZE, help="photographs and faces at once (default %(default)s)"
    )
    add_device_option(parser)


def run(options: argparse.Namespace) -> int:
    """Restore; return 0, or 1 when some photographs failed."""
    options.model = find_model(options.model)
    options.device = str(resolve_device(options.device))
    from daefr.restore.command import restore

    return restore(options)
