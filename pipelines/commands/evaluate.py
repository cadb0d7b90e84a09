"""The command `evaluate`."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from daefr.errors import UserError
from daefr.files import expand_home
from pipelines.commands.command import StepCommand

if TYPE_CHECKING:
    from pipelines.chain import Chain
    from pipelines.engine.step import StepResult
    from pipelines.evaluate.targets import EvaluationTarget

METHODS = ("gfpgan", "restoreformer", "codeformer")


class EvaluateCommand(StepCommand):
    """Measure restored faces on benchmarks, and write a report. Without options: the run's own restoration model.

    Examples:
      python -m pipelines evaluate
      python -m pipelines evaluate --config mine.yaml --model models:/daefr-restoration@champion --benchmark validation
      python -m pipelines evaluate --config mine.yaml --method gfpgan --weights GFPGANv1.4.pth
      python -m pipelines evaluate --config mine.yaml --restored celeba-test=PSFRGAN --label PSFRGAN

    """

    name = "evaluate"

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """See `Command`."""
        target = parser.add_mutually_exclusive_group()
        target.add_argument(
            "--model",
            metavar="MODEL",
            help="models:/NAME@ALIAS, models:/NAME/NUMBER, a checkpoint directory or a released file",
        )
        target.add_argument("--method", choices=METHODS, help="another method, with its released --weights")
        target.add_argument(
            "--restored",
            metavar="BENCHMARK=FOLDER",
            action="append",
            help="images that were restored elsewhere; may be repeated",
        )
        parser.add_argument("--weights", metavar="FILE", type=Path, help="the released weights of --method")
        parser.add_argument("--label", help="its name in tables")
        parser.add_argument(
            "--benchmark",
            metavar="NAME",
            action="append",
            help="of evaluation.benchmarks, or validation for the dataset's own faces; may be repeated (default: all "
            "of the configuration's)",
        )

    def executable(self, options: argparse.Namespace) -> tuple[str, ...]:  # noqa: ARG002
        """See `StepCommand`."""
        return ("evaluate", "report")

    def work(self, chain: "Chain", options: argparse.Namespace) -> list[str]:
        """See `StepCommand`."""
        from pipelines.evaluate.tables import table

        if not (options.model or options.method or options.restored):
            dataset = chain.synthesize()
            return chain.evaluate_and_report(chain.train_with_upstream("restoration", dataset), dataset)
        evaluated = _evaluate_restored(chain, options) if options.restored else _evaluate_model(chain, options)
        return [table(evaluated), f"report: {chain.report(evaluated, None)}"]


def _evaluate_restored(chain: "Chain", options: argparse.Namespace) -> "StepResult":
    from pipelines.evaluate.benchmarks import open_benchmark
    from pipelines.evaluate.targets import PrecomputedResults

    configured = chain.config.evaluation.benchmarks
    places = dict(_place(text) for text in options.restored)
    _check_benchmarks(places, configured, "--restored")
    target = PrecomputedResults(options.label or Path(next(iter(places.values()))).name, ", ".join(places.values()))
    return chain.evaluate(target, [open_benchmark(name, configured[name], place) for name, place in places.items()])


def _evaluate_model(chain: "Chain", options: argparse.Namespace) -> "StepResult":
    from pipelines.engine.names import VALIDATION

    configured = chain.config.evaluation.benchmarks
    names = options.benchmark or list(configured)
    if not names:
        raise UserError("no benchmark is configured: set evaluation.benchmarks.NAME.lq, or give --benchmark validation")
    _check_benchmarks(names, [*configured, VALIDATION], "--benchmark")
    return chain.evaluate(_target(chain, options), chain.benchmarks(names, None))


def _target(chain: "Chain", options: argparse.Namespace) -> "EvaluationTarget":
    from pipelines.evaluate.targets import open_method, open_model

    if options.model:
        return open_model(chain.run.tracking, options.model, options.label)
    if options.weights is None:
        raise UserError(f"--method {options.method} needs --weights FILE, as its authors released them")
    return open_method(options.method, options.weights, options.label)


def _place(text: str) -> tuple[str, str]:
    name, separator, place = text.partition("=")
    if not (name and separator and place):
        raise UserError(f"--restored {text} is not of the form celeba-test=FOLDER")
    return name, str(expand_home(place))


def _check_benchmarks(names: Iterable[str], valid: Iterable[str], option: str) -> None:
    for name in names:
        if name not in valid:
            raise UserError(f"{option} {name}: the configured benchmarks are {', '.join(valid) or 'none'}")
