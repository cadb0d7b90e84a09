"""The command line `python -m pipelines`: one class per command, whose docstring is the command's help.

PyTorch, Ray and MLflow are imported when a command runs, so that help and mistakes in the options are shown at once.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from daefr.cli.parser import CommandParser, suggest
from daefr.errors import UserError, missing_package
from daefr.version import find_version

PROGRAM = "python -m pipelines"


class CommandEntry(NamedTuple):
    """Where a command's class is, and what the command does, in a few words."""

    module: str
    class_name: str
    summary: str


COMMANDS = {
    "full": CommandEntry("steps", "FullCommand", "run the whole pipeline, from faces to a promoted model"),
    "synthesize": CommandEntry("steps", "SynthesizeCommand", "make pairs of LQ and HQ faces"),
    "train": CommandEntry("steps", "TrainCommand", "train one stage"),
    "evaluate": CommandEntry("evaluate", "EvaluateCommand", "measure a model on benchmarks and write a report"),
    "promote": CommandEntry("steps", "PromoteCommand", "let the gates decide whether a candidate becomes champion"),
    "promote approve": CommandEntry("champions", "ApproveCommand", "approve a version that waits for approval"),
    "promote rollback": CommandEntry("champions", "RollbackCommand", "make the previous champion the champion again"),
    "promote history": CommandEntry("champions", "HistoryCommand", "list every change of the champion"),
    "promote lineage": CommandEntry("champions", "LineageCommand", "show what a version was made from"),
    "restore": CommandEntry("restore", "RestoreCommand", "restore many images"),
    "serve": CommandEntry("serve", "ServeCommand", "serve restoration over HTTP"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name; return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        name = find_command(given)
        if name is not None:
            return run_command(name, given[len(name.split()) :])
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except ModuleNotFoundError as error:
        if (missing := missing_package(error)) is None:
            raise
        sys.stderr.write(f"error: {missing}\n")
        return 2
    return _show_help(given)


def _show_help(given: Sequence[str]) -> int:
    parser = CommandParser(PROGRAM, _overview())
    parser.usage = f"{PROGRAM} COMMAND [options] [KEY=VALUE ...]"
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {find_version()}")
    parser.parse_args(given)
    parser.print_help()
    return 0


def run_command(name: str, arguments: Sequence[str]) -> int:
    """Run one command with its arguments; return its exit code."""
    entry = COMMANDS[name]
    command = getattr(import_module(f"pipelines.commands.{entry.module}"), entry.class_name)
    status: int = command().main(f"{PROGRAM} {name}", arguments)
    return status


def find_command(given: Sequence[str]) -> str | None:
    """Return the command that the arguments begin with, None for none. Raises `UserError` for an unknown one."""
    if not given or given[0].startswith("-"):
        return None
    # `promote --rollback` is accepted for `promote rollback`
    two_words = " ".join(word.removeprefix("--") for word in given[:2])
    if two_words in COMMANDS:
        return two_words
    if given[0] not in COMMANDS:
        raise UserError(f"unknown command {given[0]!r}; {suggest(given[0], [n for n in COMMANDS if ' ' not in n])}")
    subcommands = [name.partition(" ")[2] for name in COMMANDS if name.startswith(f"{given[0]} ")]
    if subcommands and len(given) > 1 and not given[1].startswith("-") and "=" not in given[1]:
        raise UserError(f"unknown command '{given[0]} {given[1]}'; {suggest(given[1], subcommands)}")
    return given[0]


def _overview() -> str:
    lines = [f"  {name:<18}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "DAEFR retraining on a machine or a Ray cluster, one command per step.",
            "",
            "commands:",
            *lines,
            "",
            f"`{PROGRAM} COMMAND --help` describes a command. Each reads the same configuration (--config FILE), and",
            "any of its values can be overridden by KEY=VALUE. `python pipelines/full.py` is the same as `full`.",
        ]
    )
