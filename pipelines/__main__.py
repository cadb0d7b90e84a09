"""The command line of the steps: `python -m pipelines STEP`, each with a `--help` of its own."""

import argparse
import sys
from importlib.util import find_spec

COMMANDS = {
    "full": ("pipelines.full", "run the pipeline from faces to a promoted model"),
    "synthesize": ("pipelines.synthesize.step", "make pairs of LQ and HQ faces"),
    "train": ("pipelines.train.step", "train one stage"),
    "evaluate": ("pipelines.evaluate.command", "measure a model on benchmarks, and report it"),
    "promote": ("pipelines.promote.command", "decide on a candidate, roll back, or show history and lineage"),
    "restore": ("pipelines.restore.step", "restore many photographs"),
    "serve": ("pipelines.serve.run", "serve restoration over HTTP"),
}
NEEDS = ("ray", "mlflow")


def main(arguments: list[str] | None = None) -> int:
    """Run the step that the first argument names; return its exit code."""
    missing = [name for name in NEEDS if find_spec(name) is None]
    if missing:
        sys.stderr.write(f"error: {', '.join(missing)} is not installed: pip install 'daefr[cluster]'\n")
        return 2
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m pipelines", description="The pipeline, and each of its steps.")
    commands = parser.add_subparsers(dest="command", metavar="STEP", required=True)
    for name, (_, description) in COMMANDS.items():
        commands.add_parser(name, help=description, add_help=False)
    name = parser.parse_args(arguments[:1]).command
    if name == "promote":
        from pipelines.promote.command import main as promote  # noqa: PLC0415  # loads MLflow, which others do without

        return promote(arguments[1:])
    from pipelines.engine.command import run_command  # noqa: PLC0415  # it needs what was looked for above

    return run_command(COMMANDS[name][0], arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
