"""The work of the command `daefr restore`, and what it prints."""

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import torch
from tqdm import tqdm

from daefr.checkpoint import MANIFEST
from daefr.errors import UserError
from daefr.files import file_digest
from daefr.listing import PassedOver
from daefr.restore.files import Outcome, Status, Wanted, plan_results, restore_files
from daefr.restore.masks import find_parser
from daefr.restore.restorer import Restorer
from daefr.terminal import count_faces, write_line


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
        write_line(f"passed over: {line}")
    restorer = _load(options)
    counts: Counter[str] = Counter()
    shown: list[dict[str, object]] = []
    outcomes = restore_files(
        restorer, options.source, options.target, wanted, settings=_settings(options), batch=options.batch
    )
    try:
        for outcome in tqdm(outcomes, total=len(results), unit=" photographs", disable=not sys.stderr.isatty()):
            counts[outcome.status] += 1
            shown.append(_facts(outcome))
            if outcome.problem:
                write_line(f"failed: {outcome.source}: {outcome.problem}")
            elif outcome.status == "no face":
                write_line(f"no face, copied: {outcome.source}")
            elif outcome.faces and not options.aligned:
                write_line(f"{count_faces(outcome.faces)}: {outcome.source}")
            if outcome.pages_left:
                write_line(f"first of {outcome.pages_left + 1} pages or frames, see --pages: {outcome.source}")
    except KeyboardInterrupt:
        write_line("interrupted; run again, it goes on from here")
        return 130
    finally:
        if options.json:
            statuses = {status.replace(" ", "_"): counts[status] for status in get_args(Status)}
            sys.stdout.write(
                json.dumps({**statuses, "passed_over": asdict(passed_over), "photographs": shown}, indent=2) + "\n"
            )
        elif counts:
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
        min_face=options.min_face,
    )
    if not options.aligned:
        restorer.load_detector()
    return restorer


def _settings(options: argparse.Namespace) -> dict[str, object]:
    """Return what results depend on."""
    model: Path = options.model
    names = ("aligned", "only_center_face", "upscale", "side_by_side", "metadata", "pages", "min_face")
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


def _facts(outcome: Outcome) -> dict[str, object]:
    """Return what became of one photograph, as JSON has it; of one that was skipped, the number of faces is null."""
    return {
        "source": str(outcome.source),
        "status": outcome.status,
        "faces": outcome.faces,
        "result": outcome.target and str(outcome.target),
        "problem": outcome.problem,
    }


def _summary(counts: Counter[str], passed_over: PassedOver) -> str:
    return (
        f"{counts['restored']} restored, {counts['no face']} without a face, "
        f"{counts['skipped']} skipped, {counts['failed']} failed{passed_over.summary()}\n"
    )
