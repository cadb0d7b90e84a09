"""The command line that all steps share: `python -m pipelines NAME [options] [KEY=VALUE ...]`.

Each job has a `Command` beside it, so that no job imports another's libraries: training's take seconds and 500 MB.
"""

import argparse
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from errno import EDQUOT, ENOSPC
from importlib import import_module
from pathlib import Path

from daefr.errors import UserError
from daefr.settings.base import STAGES
from pipelines.config import RunConfig, load_config, show_config
from pipelines.engine.errors import StepFailedError
from pipelines.engine.progress import say
from pipelines.engine.run import Run, open_run
from pipelines.engine.signals import EXIT_CODE, TerminatedError, heeded
from pipelines.preflight import check

DEMO = Path(__file__).resolve().parents[1] / "configs/demo.yaml"


class Command(ABC):
    """What one job adds to the common command line."""

    name: str
    shortcuts: tuple[str, ...] = ()
    """The settings that options of the same name, without what is before the dot, stand for."""

    def add_options(self, parser: argparse.ArgumentParser) -> None:  # noqa: B027  # none by default
        """Add the job's own options."""

    def sort_out(self, options: argparse.Namespace) -> None:  # noqa: B027
        """Put right what argparse cannot tell apart; raises `UserError`."""

    @abstractmethod
    def run(self, config: RunConfig, options: argparse.Namespace) -> list[str]:
        """Do the job; return the lines that tell its result."""

    def overrides(self, options: argparse.Namespace) -> list[str]:
        """Return the overrides of the command line, and those that options stand for."""
        given = {key: getattr(options, key.rpartition(".")[2]) for key in self.shortcuts}
        stand_for = [f"{key}={json.dumps(value)}" for key, value in given.items() if value not in (None, False)]
        return [*options.overrides, *stand_for]


class StepCommand(Command):
    """A job that works below a run of MLflow's."""

    def steps(self, options: argparse.Namespace) -> tuple[str, ...] | None:  # noqa: ARG002  # an answer by default
        """Return the steps that it may execute, None for all; others must be committed."""
        return (self.name,)

    def title(self, options: argparse.Namespace) -> str:  # noqa: ARG002
        """Return the name of the run."""
        return self.name

    def check(self, config: RunConfig) -> None:
        """Look for what would be missing hours later; raises `UserError`."""
        check(config)

    def run(self, config: RunConfig, options: argparse.Namespace) -> list[str]:
        """See `Command`."""
        self.check(config)
        with (
            heeded(config.compute.stop_timeout),
            open_run(config, self.title(options), only=self.steps(options)) as run,
        ):
            return self.work(run, options)

    @abstractmethod
    def work(self, run: Run, options: argparse.Namespace) -> list[str]:
        """Do the job in an open run; return the lines that tell its result."""


class StageCommand(StepCommand):
    """A job on one of the stages."""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """See `Command`."""
        parser.add_argument("--stage", required=True, choices=STAGES)

    def title(self, options: argparse.Namespace) -> str:
        """See `StepCommand`."""
        return f"{self.name} {options.stage}"


def run_command(module: str, arguments: Sequence[str] | None = None) -> int:
    """Run the `COMMAND` of a module with the arguments of the command line, and return the exit code.

    0 for success, 1 when a step failed, 2 for the user's mistake, 130 after Ctrl-C, 143 after SIGTERM.
    """
    home = import_module(module)
    command: Command = home.COMMAND
    options = _parser(command, home.__doc__).parse_intermixed_args(arguments)
    try:
        command.sort_out(options)
        config = load_config(options.config, command.overrides(options))
        if options.print_config:
            sys.stdout.write(show_config(config))
            return 0
        lines = command.run(config, options)
    except UserError as error:
        return _complain(error, 2)
    except StepFailedError as error:
        return _complain(error, 1)
    except OSError as error:
        if error.errno not in (ENOSPC, EDQUOT):
            raise
        return _complain(f"{error}: make room, and the same command goes on from here", 1)
    except (KeyboardInterrupt, TerminatedError) as stopped:
        terminated = isinstance(stopped, TerminatedError)
        say(f"{'terminated' if terminated else 'interrupted'}: the same command goes on from here")
        return EXIT_CODE if terminated else 130
    sys.stdout.write("\n".join([*lines, ""]))
    return 0


def _parser(command: Command, description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m pipelines {command.name}", description=description)
    parser.add_argument("--config", type=Path, default=DEMO, help="YAML file of the run (default: the demo's)")
    parser.add_argument("--print-config", action="store_true", help="print the whole configuration and stop")
    command.add_options(parser)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as stages.restoration.steps=200")
    return parser


def _complain(error: Exception | str, code: int) -> int:
    say(f"error: {error}")
    return code
