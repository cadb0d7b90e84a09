"""Measure the speed of training and restoring beside the same network computed the way of the public reference."""

import argparse
import json
import sys
from dataclasses import asdict

import torch
from pydantic import ValidationError

from daefr.bench.cases import CASES, Case, CaseName, Side
from daefr.bench.measure import SIDES, Measured, measure, products_type
from daefr.bench.worker import matrix_rate
from daefr.cli.device import add_device_option, resolve_device
from daefr.errors import UserError
from daefr.settings.network import AutoencoderConfig, NetworkConfig
from daefr.speed import Speed

HEADER = ("", "seconds", "reference", "ratio", "samples/s", "peak MB", "reference", "GFLOP/s", "of matrix rate")
WIDTH = 11


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options; the defaults measure the released width on a CPU in about a quarter of an hour."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--as-reference",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="beside it, the same network computed the way of the public reference (the default)",
    )
    parser.add_argument("--stages", type=_names, default=CASES, help=f"comma-separated, of {', '.join(CASES)}")
    parser.add_argument("--repetitions", type=int, default=3, help="timed runs a side, after one to warm up")
    add_device_option(parser)
    parser.add_argument("--batch", type=int, default=2, help="samples a training step")
    parser.add_argument("--channels", type=int, default=64, help="width of the finest level")
    parser.add_argument("--resolution", type=int, default=256, help="side of the images in training")
    parser.add_argument(
        "--multipliers", type=_numbers, default=(1, 2, 2, 4, 8), help="widths of the levels in training"
    )
    parser.add_argument("--restore-batch", type=int, default=1, help="images restored at once")
    parser.add_argument("--restore-resolution", type=int, default=512, help="side of the images restored")
    parser.add_argument(
        "--restore-multipliers", type=_numbers, default=(1, 2, 2, 4, 4, 8), help="widths of the levels in restoration"
    )
    parser.add_argument("--channels-last", action=argparse.BooleanOptionalAction, help="by default as suits the device")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="likewise")
    parser.add_argument("--keep-memory", action=argparse.BooleanOptionalAction, help="likewise")
    parser.add_argument("--autocast", choices=("bfloat16", "off"), help="likewise")


def run(options: argparse.Namespace) -> int:
    """Measure and print; return 0. Raises `UserError` for sizes that do not fit together."""
    options.device = str(resolve_device(options.device))
    cases = [_case(name, options) for name in options.stages]
    rate = matrix_rate(torch.device(options.device), products_type(cases[0]))
    if not options.json:
        sys.stdout.write(f"matrix rate of {options.device}, {products_type(cases[0])}: {rate / 1e9:.0f} GFLOP/s\n")
        sys.stdout.write(_row(HEADER))
    sides: tuple[Side, ...] = SIDES if options.as_reference else ("ours",)
    measured: dict[str, Measured] = {}
    for case in cases:
        measured[case.name] = measure(case, options.repetitions, rate, sides)
        if not options.json:
            sys.stdout.write(_row((case.name, *_columns(measured[case.name]))))
            sys.stdout.flush()
    if options.json:
        sys.stdout.write(json.dumps({name: asdict(each) for name, each in measured.items()}, indent=2) + "\n")
    return 0


def _case(name: CaseName, options: argparse.Namespace) -> Case:
    restore = name == "restore"
    resolution = options.restore_resolution if restore else options.resolution
    multipliers = options.restore_multipliers if restore else options.multipliers
    network = network_of(resolution, options.channels, multipliers)
    speed = Speed(
        channels_last=options.channels_last,
        autocast=options.autocast,
        compile=options.compile,
        keep_memory=options.keep_memory,
    )
    return Case(name, network, options.restore_batch if restore else options.batch, options.device, speed)


def network_of(resolution: int, channels: int, multipliers: tuple[int, ...]) -> NetworkConfig:
    """Return the network of these sizes, with attention at the coarsest level. Raises `UserError` if there is none."""
    coarsest = resolution // 2 ** (len(multipliers) - 1)
    try:
        sizes = AutoencoderConfig(
            resolution=resolution, channels=channels, multipliers=multipliers, attention_resolutions=(coarsest,)
        )
    except ValidationError as error:
        raise UserError("; ".join(problem["msg"] for problem in error.errors())) from None
    return NetworkConfig(autoencoder=sizes)


def _columns(measured: Measured) -> tuple[str, ...]:
    return (
        f"{measured.seconds:.3f}",
        _or_none(measured.reference_seconds, ".3f"),
        _or_none(measured.ratio, ".2f"),
        f"{measured.samples_per_second:.3f}",
        _megabytes(measured.peak_bytes),
        _megabytes(measured.reference_peak_bytes),
        f"{measured.flops_per_second / 1e9:.0f}",
        f"{measured.share_of_matrix_rate:.0%}",
    )


def _megabytes(size: int | None) -> str:
    return _or_none(None if size is None else size / 2**20, ".0f")


def _or_none(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _row(cells: tuple[str, ...]) -> str:
    return cells[0].ljust(WIDTH) + " " + " ".join(cell.rjust(WIDTH) for cell in cells[1:]) + "\n"


def _names(text: str) -> tuple[CaseName, ...]:
    chosen = text.split(",")
    unknown = sorted(set(chosen) - set(CASES))
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(CASES)}")
    return tuple(name for name in CASES if name in chosen)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no list of whole numbers such as 1,2,4") from None
