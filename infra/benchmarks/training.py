"""Benchmark training steps and restoration, compared with an imitation of the public reference."""

import argparse
import json
import sys
from dataclasses import asdict

from daefr.cli.bench import add_case_options, format_row, list_cases
from daefr.device import resolve_device
from daefr.profiling import matrix_rate, matrix_type
from infra.benchmarks.measure import SIDES, CaseCost, measure_sides
from infra.benchmarks.reference import Side

HEADER = ("", "seconds", "reference", "ratio", "samples/s", "peak MB", "reference", "GFLOP/s", "of matrix rate")
WIDTH = 11


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options; with the defaults, the released width takes about 15 minutes on a CPU."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--as-reference",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also measure an imitation of the public reference (the default)",
    )
    add_case_options(parser)


def run(options: argparse.Namespace) -> int:
    """Measure and print; return 0. Raises `UserError` if the sizes are inconsistent."""
    device = resolve_device(options.device)
    cases = list_cases(options, str(device))
    rate = matrix_rate(device, matrix_type(cases[0]))
    if not options.json:
        sys.stdout.write(f"matrix rate of {device}, {matrix_type(cases[0])}: {rate / 1e9:.0f} GFLOP/s\n")
        sys.stdout.write(format_row(HEADER, WIDTH))
    sides: tuple[Side, ...] = SIDES if options.as_reference else ("ours",)
    measured: dict[str, CaseCost] = {}
    for case in cases:
        measured[case.name] = measure_sides(case, options.repetitions, rate, sides)
        if not options.json:
            sys.stdout.write(format_row((case.name, *_columns(measured[case.name])), WIDTH))
            sys.stdout.flush()
    if options.json:
        sys.stdout.write(json.dumps({name: asdict(each) for name, each in measured.items()}, indent=2) + "\n")
    return 0


def _columns(measured: CaseCost) -> tuple[str, ...]:
    return (
        f"{measured.seconds:.3f}",
        _or_none(measured.reference_seconds, ".3f"),
        _or_none(measured.ratio, ".2f"),
        f"{measured.samples_per_second:.3f}",
        _megabytes(measured.peak_bytes),
        _megabytes(measured.reference_peak_bytes),
        f"{measured.operations_per_second / 1e9:.0f}",
        f"{measured.fraction_of_matrix_rate:.0%}",
    )


def _megabytes(size: int | None) -> str:
    return _or_none(None if size is None else size / 2**20, ".0f")


def _or_none(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
