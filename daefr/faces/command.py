"""The work of the command `daefr align`, and what it prints."""

import argparse
import json
import sys
from dataclasses import asdict

import torch
from pydantic import ValidationError
from tqdm import tqdm

from daefr.errors import UserError
from daefr.faces.crops import Aligner
from daefr.faces.detector import Detector
from daefr.faces.folder import AlignmentOutcome, align_files, list_photographs
from daefr.faces.rejection import Rejection, count_reasons
from daefr.listing import PassedOver
from daefr.settings.faces import FaceFilters
from daefr.terminal import count_faces, write_line


def align(options: argparse.Namespace, device: torch.device) -> int:
    """Align and print; return 0, or 1 when a photograph failed or no crop was written."""
    passed_over = PassedOver()
    photographs, filters = list_photographs(options.source, options.target, passed_over), _filters(options)
    detector = Detector.load(options.detector, device, filters.smallest_face(options.side))
    aligner = Aligner(detector, filters, options.side, options.max_pixels)
    for line in passed_over.named():
        write_line(f"passed over: {line}")
    outcomes = align_files(aligner, options.source, options.target, options.on_conflict)
    shown: list[dict[str, object]] = []
    written = failed = 0
    rejected: list[Rejection] = []
    for outcome in tqdm(outcomes, total=len(photographs), unit=" photographs", disable=not sys.stderr.isatty()):
        if outcome.problem:
            failed += 1
            write_line(f"failed: {outcome.source}: {outcome.problem}")
        if outcome.pages_left:
            write_line(f"first of {outcome.pages_left + 1} pages or frames: {outcome.source}")
        written += len(outcome.written)
        rejected += outcome.rejected
        shown.append(_facts(outcome))
        if not outcome.problem:
            write_line(f"{count_faces(outcome.faces)}: {outcome.source}")
    counts = count_reasons(rejected)
    if options.json:
        summary = {"crops": written, "failed": failed, "rejected": counts, "passed_over": asdict(passed_over)}
        sys.stdout.write(json.dumps({**summary, "photographs": shown}, indent=2) + "\n")
    else:
        reasons = "".join(f", {count} {kind}" for kind, count in counts.items())
        sys.stdout.write(
            f"{written} crops of {len(photographs)} photographs{reasons}, {failed} failed{passed_over.summary()}\n"
        )
    return 1 if failed or not written else 0


def _facts(outcome: AlignmentOutcome) -> dict[str, object]:
    """Return what became of one photograph, as JSON has it."""
    return {
        "source": str(outcome.source),
        "faces": outcome.faces,
        "crops": [str(path) for path in outcome.written],
        "rejected": [rejection.model_dump() for rejection in outcome.rejected],
        "problem": outcome.problem,
    }


def _filters(options: argparse.Namespace) -> FaceFilters:
    given = {name: value for name in FaceFilters.model_fields if (value := getattr(options, name)) is not None}
    try:
        return FaceFilters.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise UserError(f"--{option} {first['input']}: {first['msg']}") from None
