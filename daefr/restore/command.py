"""The command `python -m daefr restore`: its options, and what it does and prints."""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import get_args

import torch
from tqdm import tqdm

from daefr.checkpoint import MANIFEST
from daefr.data.shards import file_digest
from daefr.errors import UserError
from daefr.outputs import OnConflict
from daefr.restore.files import Wanted, list_files, restore_files
from daefr.restore.masks import find_parser
from daefr.restore.restorer import BATCH, SCALES, Restorer


def add_restore_options(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    parser.add_argument("source", metavar="IN", type=Path, help="a photograph, or a folder of photographs")
    parser.add_argument(
        "target", metavar="OUT", type=Path, help="folder for the results (for one photograph: or a .png)"
    )
    parser.add_argument("--model", required=True, type=Path, help="a restoration checkpoint directory, or a .ckpt file")
    parser.add_argument("--aligned", action="store_true", help="the files are aligned crops of faces")
    parser.add_argument("--only-center-face", action="store_true", help="restore only the face next to the middle")
    parser.add_argument(
        "--upscale", type=int, choices=SCALES, default=1, help="how many times as large photographs become"
    )
    parser.add_argument("--upscaler", metavar="PATH", type=Path, help="spandrel model (default: resampling)")
    parser.add_argument("--detector", metavar="PATH", type=Path, help="RetinaFace weights (default: facexlib's)")
    parser.add_argument("--parser", metavar="PATH", type=Path, help="ParseNet weights, for tighter masks")
    parser.add_argument("--suffix", default="", help="goes between a result's name and .png")
    parser.add_argument("--side-by-side", action="store_true", help="write before and after beside each other")
    add_conflict_option(parser)
    parser.add_argument("--batch", type=int, default=BATCH, help="photographs and faces at once (default %(default)s)")


def add_conflict_option(parser: argparse.ArgumentParser) -> None:
    """Describe the option that says what becomes of a result whose name is taken."""
    parser.add_argument(
        "--on-conflict",
        choices=get_args(OnConflict),
        default="stop",
        help="where a file that this program did not make has a result's name: stop, which fails that photograph "
        "(default), or rename, which numbers the result",
    )


def restore(options: argparse.Namespace) -> int:
    """Restore and print how many; return 0, 1 when some failed. Raises `UserError` for bad input."""
    if Path(f"x{options.suffix}").name != f"x{options.suffix}" or not options.suffix.isprintable():
        raise UserError(f"--suffix {options.suffix!r} is no part of a file's name")
    if options.batch < 1:
        raise UserError(f"--batch {options.batch}: at least one face has to be restored at once")
    wanted = Wanted(
        aligned=options.aligned,
        only_center_face=options.only_center_face,
        upscale=options.upscale,
        suffix=options.suffix,
        side_by_side=options.side_by_side,
        on_conflict=options.on_conflict,
    )
    files = list_files(options.source, options.target)
    restorer = _load(options)
    counts: Counter[str] = Counter()
    outcomes = restore_files(
        restorer, options.source, options.target, wanted, settings=_settings(options), batch=options.batch
    )
    try:
        for outcome in tqdm(outcomes, total=len(files), unit=" photographs", disable=not sys.stderr.isatty()):
            counts[outcome.status] += 1
            if outcome.problem:
                _tell(f"failed: {outcome.source}: {outcome.problem}")
            elif outcome.status == "no face":
                _tell(f"no face, copied unchanged: {outcome.source}")
    except KeyboardInterrupt:
        _tell("interrupted; run again, it goes on from here")
        return 130
    finally:
        if counts:
            sys.stdout.write(_summary(counts))
    return 1 if counts["failed"] else 0


def _load(options: argparse.Namespace) -> Restorer:
    restorer = Restorer.load(
        options.model,
        torch.device(options.device),
        options.detector,
        options.parser,
        options.upscaler,
        batch=options.batch,
    )
    if not options.aligned:
        restorer.load_detector()
    return restorer


def _settings(options: argparse.Namespace) -> dict[str, object]:
    """Return what results depend on."""
    model: Path = options.model
    names = ("aligned", "only_center_face", "upscale", "side_by_side")
    digests = {
        name: path and file_digest(path)
        for name, path in (
            ("model", model / MANIFEST if model.is_dir() else model),
            ("detector", options.detector),
            ("parser", find_parser(options.parser)),
            ("upscaler", options.upscaler),
        )
    }
    return {name: getattr(options, name) for name in names} | digests


def _tell(line: str) -> None:
    # a file's name may hold what is none of a terminal's business, or no text at all
    printable = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
    encoding = sys.stderr.encoding or "ascii"
    tqdm.write(printable.encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr)


def _summary(counts: Counter[str]) -> str:
    return (
        f"{counts['restored']} restored, {counts['no face']} without a face, "
        f"{counts['skipped']} skipped, {counts['failed']} failed\n"
    )
