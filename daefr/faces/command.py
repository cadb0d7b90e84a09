"""The work of the command `daefr align`, and what it prints."""

import argparse
import sys

import torch
from pydantic import ValidationError
from tqdm import tqdm

from daefr.errors import UserError
from daefr.faces.crops import Aligner
from daefr.faces.detector import Detector
from daefr.faces.folder import align_files, list_photographs
from daefr.faces.rejection import Rejection, count_reasons
from daefr.listing import PassedOver
from daefr.settings.faces import FaceFilters


def align(options: argparse.Namespace, device: torch.device) -> int:
    """Align and print; return 0, or 1 when a photograph failed or no crop was written."""
    passed_over = PassedOver()
    photographs, filters = list_photographs(options.source, options.target, passed_over), _filters(options)
    detector = Detector.load(options.detector, device)
    aligner = Aligner(detector, filters, options.side, options.max_pixels)
    for line in passed_over.named():
        tqdm.write(f"passed over: {line}", file=sys.stderr)
    outcomes = align_files(aligner, options.source, options.target, options.on_conflict)
    written = failed = 0
    rejected: list[Rejection] = []
    for outcome in tqdm(outcomes, total=len(photographs), unit=" photographs", disable=not sys.stderr.isatty()):
        if outcome.problem:
            failed += 1
            tqdm.write(f"failed: {outcome.source}: {outcome.problem}", file=sys.stderr)
        if outcome.pages_left:
            tqdm.write(f"first of {outcome.pages_left + 1} pages or frames: {outcome.source}", file=sys.stderr)
        written += len(outcome.written)
        rejected += outcome.rejected
    counts = "".join(f", {count} {kind}" for kind, count in count_reasons(rejected).items())
    sys.stdout.write(
        f"{written} crops of {len(photographs)} photographs{counts}, {failed} failed{passed_over.summary()}\n"
    )
    return 1 if failed or not written else 0


def _filters(options: argparse.Namespace) -> FaceFilters:
    given = {name: value for name in FaceFilters.model_fields if (value := getattr(options, name)) is not None}
    try:
        return FaceFilters.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise UserError(f"--{option} {first['input']}: {first['msg']}") from None
