"""What all commands share: the configuration and its overrides, exit codes, and a run to execute steps in."""

import argparse
import inspect
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from daefr.cli.parser import CommandParser
from daefr.errors import UserError, is_disk_full, missing_package, one_line
from daefr.settings.base import STAGES

if TYPE_CHECKING:
    from pipelines.chain import Chain
    from pipelines.config import RunConfig

DEMO = Path(__file__).resolve().parents[1] / "configs/demo.yaml"


class Command(ABC):
    """One command: its own options, and its work. Its docstring is its help."""

    shortcuts: tuple[str, ...] = ()
    """Keys of the configuration that have an option of their own, named after the last part of the key."""

    def add_options(self, parser: argparse.ArgumentParser) -> None:  # noqa: B027  # none by default
        """Add the command's own options."""

    def resolve(self, options: argparse.Namespace) -> None:  # noqa: B027
        """Sort out what argparse cannot tell apart. Raises `UserError`."""

    @abstractmethod
    def run(self, config: "RunConfig", options: argparse.Namespace) -> list[str]:
        """Do the work; return the lines for standard output."""

    def main(self, program: str, arguments: Sequence[str]) -> int:
        """Parse the arguments, run, and return the exit code.

        0 for success, 1 when a step failed, 2 for the user's mistake, 130 after Ctrl-C, 143 after SIGTERM.
        """
        options = self._parser(program).parse_args(arguments)
        from pipelines.config import load_config
        from pipelines.engine.progress import say
        from pipelines.engine.signals import EXIT_CODE, STOPPED, TerminatedError, abandoned
        from pipelines.errors import StepFailedError
        from pipelines.print_config import show_config

        try:
            self.resolve(options)
            config = load_config(options.config, self._overrides(options))
            if options.print_config:
                sys.stdout.write(show_config(config))
                return 0
            lines = self.run(config, options)
        except (UserError, StepFailedError) as error:
            say(f"error: {error}")
            return 2 if isinstance(error, UserError) else 1
        except STOPPED as stopped:
            terminated = isinstance(stopped, TerminatedError)
            say(f"{'terminated' if terminated else 'interrupted'}: the same command resumes from here")
            if abandoned.is_set():
                os._exit(EXIT_CODE if terminated else 130)
            return EXIT_CODE if terminated else 130
        except Exception as error:
            if (missing := missing_package(error)) is not None:
                say(f"error: {missing}")
                return 2
            if not is_disk_full(error):
                raise
            say(f"error: {one_line(error)}: free some space; the same command resumes from here")
            return 1
        sys.stdout.write("\n".join([*lines, ""]))
        return 0

    def _parser(self, program: str) -> CommandParser:
        parser = CommandParser(program, inspect.getdoc(self) or "")
        parser.add_argument("--config", metavar="FILE", type=Path, default=DEMO, help="YAML file (default: the demo's)")
        parser.add_argument("--print-config", action="store_true", help="print the complete configuration and exit")
        self.add_options(parser)
        parser.add_argument(
            "overrides", nargs="*", metavar="KEY=VALUE", help="override a value, such as stages.restoration.steps=200"
        )
        return parser

    def _overrides(self, options: argparse.Namespace) -> list[str]:
        """Return the overrides of the command line, and those that options stand for."""
        values = {key: getattr(options, key.rpartition(".")[2]) for key in self.shortcuts}
        shortcuts = [f"{key}={value}" for key, value in values.items() if value not in (None, False)]
        return [*options.overrides, *shortcuts]


class StepCommand(Command):
    """A command that executes steps below an MLflow run."""

    name: str

    def executable(self, options: argparse.Namespace) -> tuple[str, ...] | None:  # noqa: ARG002  # an answer by default
        """Return the steps that it may execute, None for all; others must be committed."""
        return (self.name,)

    def title(self, options: argparse.Namespace) -> str:  # noqa: ARG002
        """Return the name of the MLflow run."""
        return self.name

    def check(self, config: "RunConfig", options: argparse.Namespace) -> None:  # noqa: ARG002
        """Look for what would be missing hours later. Raises `UserError`."""
        from pipelines.preflight import check

        check(config)

    def run(self, config: "RunConfig", options: argparse.Namespace) -> list[str]:
        """See `Command`."""
        from pipelines.chain import open_chain
        from pipelines.engine.signals import handle_signals

        self.check(config, options)
        with (
            handle_signals(config.compute.stop_timeout_s),
            open_chain(config, self.title(options), self.executable(options)) as chain,
        ):
            return self.work(chain, options)

    @abstractmethod
    def work(self, chain: "Chain", options: argparse.Namespace) -> list[str]:
        """Execute steps in an open run; return the lines for standard output."""


class StageCommand(StepCommand):
    """A command on one of the stages."""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """See `Command`."""
        parser.add_argument("--stage", required=True, choices=STAGES, help="the stage")

    def title(self, options: argparse.Namespace) -> str:
        """See `StepCommand`."""
        return f"{self.name} {options.stage}"
