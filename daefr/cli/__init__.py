"""The command line `daefr`: one small module per command, of which only the one that is called is imported.

A command's module describes its options with `add_options(parser)` and does its work in `run(options)`, which returns
the exit code. Its docstring is the command's help. It imports PyTorch and what needs it in `run` only, so that help and
mistakes in the options are shown at once.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from daefr.cli.parser import CommandParser, suggest
from daefr.errors import UserError, missing_package
from daefr.version import find_version

PROGRAM = "daefr"


class Command(NamedTuple):
    """Where a command is implemented, and what it does, in a few words."""

    module: str
    summary: str


COMMANDS = {
    "restore": Command("daefr.cli.restore", "restore the faces of photographs, or aligned crops"),
    "align": Command("daefr.cli.align", "cut aligned crops of the faces out of photographs"),
    "import": Command("daefr.cli.import_checkpoint", "convert a released .ckpt file to a checkpoint directory"),
    "export": Command("daefr.cli.export_checkpoint", "convert a checkpoint directory to a .ckpt file"),
    "measure": Command("daefr.cli.measure", "measure restored images: PSNR, SSIM, LPIPS, FID, NIQE and others"),
    "fid-statistics": Command("daefr.cli.fid_statistics", "compute the statistics of real images for FID"),
    "data show": Command("daefr.cli.data_show", "describe a dataset and draw some of its faces"),
    "degradations preview": Command("daefr.cli.degradations_preview", "draw what a degradation recipe does to a face"),
    "train": Command("daefr.cli.train", "train one stage on this machine, without Ray and MLflow"),
    "bench": Command("daefr.cli.bench", "measure the speed of training steps and of restoring"),
    "gpu-check": Command("daefr.cli.gpu_check", "check and measure what a GPU does with this project"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0 when everything succeeded, 1 when some of it failed, 2 for the user's mistake."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        name = _find_command(given)
        if name is None:
            return _without_command(given)
        return run_command(name, given[len(name.split()) :])
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except ModuleNotFoundError as error:
        if (missing := missing_package(error)) is None:
            raise
        sys.stderr.write(f"error: {missing}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


def run_command(name: str, arguments: Sequence[str]) -> int:
    """Parse the arguments of one command and run it. Raises `UserError`, or `SystemExit` after help."""
    module = import_module(COMMANDS[name].module)
    parser = CommandParser(f"{PROGRAM} {name}", module.__doc__ or "")
    module.add_options(parser)
    status: int = module.run(parser.parse_args(arguments))
    return status


def _find_command(given: Sequence[str]) -> str | None:
    """Return the command that the arguments start with, None without one. Raises `UserError` for an unknown one."""
    if not given or given[0].startswith("-"):
        return None
    for words in (2, 1):
        name = " ".join(given[:words])
        if name in COMMANDS:
            return name
    group = [name for name in COMMANDS if name.startswith(f"{given[0]} ")]
    if group:
        if len(given) == 1 or given[1] in ("-h", "--help"):
            return None
        raise UserError(f"unknown command {' '.join(given[:2])!r}; did you mean {group[0]!r}?")
    raise UserError(f"unknown command {given[0]!r}; {suggest(given[0], tuple(COMMANDS))}")


def _without_command(given: Sequence[str]) -> int:
    parser = CommandParser(PROGRAM, _overview(given[0] if given and not given[0].startswith("-") else ""))
    parser.usage = f"{PROGRAM} COMMAND [options]"
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {find_version()}")
    parser.parse_args([argument for argument in given if argument.startswith("-")])
    parser.print_help()
    return 0


def _overview(group: str) -> str:
    shown = {name: command for name, command in COMMANDS.items() if name.startswith(group)}
    lines = [f"  {name:<22}{command.summary}" for name, command in shown.items()]
    return "\n".join(
        [
            "DAEFR face restoration on one machine.",
            "",
            "commands:",
            *lines,
            "",
            f"`{PROGRAM} COMMAND --help` describes a command. Jobs on a cluster, and models in an MLflow registry,",
            "are the business of `daefr-pipelines`.",
        ]
    )
