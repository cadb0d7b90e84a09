"""Benchmarks: `python -m infra.benchmarks training | data | loader`; each prints its numbers and has `--help`."""

import argparse
import sys

from daefr.errors import UserError
from infra.benchmarks import data, loader, training

COMMANDS = {"training": training, "data": data, "loader": loader}


def main(arguments: list[str] | None = None) -> int:
    """Run a benchmark and return its exit code: 0, or 2 for a user error."""
    parser = argparse.ArgumentParser(prog="python -m infra.benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        text = (module.__doc__ or "").strip()
        module.add_options(commands.add_parser(name, help=text.splitlines()[0], description=text))
    options = parser.parse_args(arguments)
    try:
        status: int = COMMANDS[options.command].run(options)
        return status
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
