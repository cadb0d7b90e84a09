"""Measure the speed of training steps and of restoring on this machine: random weights and images, one stage at a time.

Examples:
  daefr bench --device cpu
  daefr bench --stages restoration,restore --batch 8 --resolution 512 --multipliers 1,2,2,4,4,8 --device cuda
  daefr bench --json --channels 32 --no-compile
"""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from daefr.device import add_device_option, resolve_device
from daefr.errors import UserError

if TYPE_CHECKING:
    from daefr.profiling import Case, Cost

HEADER = ("", "seconds", "samples/s", "GFLOP/s", "of matrix rate", "peak MB")
WIDTH = 15


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options; the defaults measure the released width."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_case_options(parser)


def add_case_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of what is measured; `list_cases` reads them."""
    parser.add_argument(
        "--stages", default="hq_codebook,association,restoration,restore", help="comma-separated (default %(default)s)"
    )
    parser.add_argument("--repetitions", type=int, default=3, help="timed runs, after one to warm up (%(default)s)")
    add_device_option(parser)
    parser.add_argument("--batch", type=int, default=2, help="samples per training step (default %(default)s)")
    parser.add_argument("--channels", type=int, default=64, help="width of the finest level (default %(default)s)")
    parser.add_argument("--resolution", type=int, default=256, help="side of the images in training (%(default)s)")
    parser.add_argument("--multipliers", default="1,2,2,4,8", help="widths of the levels in training (%(default)s)")
    parser.add_argument("--restore-batch", type=int, default=1, help="images restored at once (default %(default)s)")
    parser.add_argument("--restore-resolution", type=int, default=512, help="side of the images restored (%(default)s)")
    parser.add_argument("--restore-multipliers", default="1,2,2,4,4,8", help="widths when restoring (%(default)s)")
    parser.add_argument("--channels-last", action=argparse.BooleanOptionalAction, help="default: as suits the device")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="default: as suits the device")
    parser.add_argument(
        "--retain-freed-memory", action=argparse.BooleanOptionalAction, help="default: as suits the device"
    )
    parser.add_argument("--autocast", choices=("bfloat16", "off"), help="default: as suits the device")


def run(options: argparse.Namespace) -> int:
    """Measure and print; return 0."""
    device = resolve_device(options.device)
    from daefr.profiling import matrix_rate, matrix_type, measure_case

    cases = list_cases(options, str(device))
    rate = matrix_rate(device, matrix_type(cases[0]))
    if not options.json:
        sys.stdout.write(f"matrix rate of {device}, {matrix_type(cases[0])}: {rate / 1e9:.0f} GFLOP/s\n")
        sys.stdout.write(format_row(HEADER, WIDTH))
    costs = {}
    for case in cases:
        cost = measure_case(case, options.repetitions)
        costs[case.name] = {**cost._asdict(), "fraction_of_matrix_rate": cost.operations_per_second / rate}
        if not options.json:
            sys.stdout.write(format_row((case.name, *_columns(cost, rate)), WIDTH))
            sys.stdout.flush()
    if options.json:
        sys.stdout.write(json.dumps(costs, indent=2) + "\n")
    return 0


def list_cases(options: argparse.Namespace, device: str) -> "list[Case]":
    """Return what the options of `add_case_options` ask for. Raises `UserError` for sizes that do not fit together."""
    from daefr.profiling import CASES, Case, network_of
    from daefr.settings.speed import Speed

    names = options.stages.split(",")
    unknown = sorted(set(names) - set(CASES))
    if unknown:
        raise UserError(f"--stages: unknown stage {unknown[0]!r}; choose among {', '.join(CASES)}")
    for name in ("repetitions", "batch", "restore_batch"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(options, name)}; it must be 1 or more")
    speed = Speed(
        channels_last=options.channels_last,
        autocast=options.autocast,
        compile=options.compile,
        retain_freed_memory=options.retain_freed_memory,
    )
    training = network_of(options.resolution, options.channels, _numbers(options.multipliers))
    restoring = network_of(options.restore_resolution, options.channels, _numbers(options.restore_multipliers))
    return [
        Case(name, restoring, options.restore_batch, device, speed)
        if name == "restore"
        else Case(name, training, options.batch, device, speed)
        for name in CASES
        if name in names
    ]


def format_row(cells: tuple[str, ...], width: int) -> str:
    """Return a line of a table: the first cell left-aligned, the others right-aligned."""
    return cells[0].ljust(width) + " " + " ".join(cell.rjust(width) for cell in cells[1:]) + "\n"


def _columns(cost: "Cost", rate: float) -> tuple[str, ...]:
    return (
        f"{cost.seconds:.3f}",
        f"{cost.samples_per_second:.3f}",
        f"{cost.operations_per_second / 1e9:.0f}",
        f"{cost.operations_per_second / rate:.0%}",
        "-" if cost.peak_bytes is None else f"{cost.peak_bytes / 2**20:.0f}",
    )


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise UserError(f"{text!r} is no list of whole numbers such as 1,2,4") from None
