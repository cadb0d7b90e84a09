"""The work of the command `daefr restore`, and what it prints."""

import argparse
import sys
from collections import Counter
from pathlib import Path

import torch
from tqdm import tqdm

from daefr.checkpoint import MANIFEST
from daefr.errors import UserError
from daefr.files import file_digest
from daefr.listing import PassedOver
from daefr.restore.files import Wanted, plan_results, restore_files
from daefr.restore.masks import find_parser
from daefr.restore.restorer import Restorer


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
        format=options.format,
        metadata=options.metadata,
        suffix=options.suffix,
        side_by_side=options.side_by_side,
        on_conflict=options.on_conflict,
        pages=options.pages,
    )
    passed_over = PassedOver()
    results = plan_results(options.source, options.target, wanted, passed_over)
    for line in passed_over.named():
        _tell(f"passed over: {line}")
    restorer = _load(options)
    counts: Counter[str] = Counter()
    outcomes = restore_files(
        restorer, options.source, options.target, wanted, settings=_settings(options), batch=options.batch
    )
    try:
        for outcome in tqdm(outcomes, total=len(results), unit=" photographs", disable=not sys.stderr.isatty()):
            counts[outcome.status] += 1
            if outcome.problem:
                _tell(f"failed: {outcome.source}: {outcome.problem}")
            elif outcome.status == "no face":
                _tell(f"no face, copied: {outcome.source}")
            if outcome.pages_left:
                _tell(f"first of {outcome.pages_left + 1} pages or frames, see --pages: {outcome.source}")
    except KeyboardInterrupt:
        _tell("interrupted; run again, it goes on from here")
        return 130
    finally:
        if counts:
            sys.stdout.write(_summary(counts, passed_over))
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
    names = ("aligned", "only_center_face", "upscale", "side_by_side", "metadata", "pages")
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


def _summary(counts: Counter[str], passed_over: PassedOver) -> str:
    return (
        f"{counts['restored']} restored, {counts['no face']} without a face, "
        f"{counts['skipped']} skipped, {counts['failed']} failed{passed_over.summary()}\n"
    )
