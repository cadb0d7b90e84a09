"""The command line of evaluation: which model, method or folder, and on what."""

import argparse
from collections.abc import Iterable
from pathlib import Path

from daefr.errors import UserError
from daefr.evaluation.other_methods import METHODS
from pipelines.engine.command import StepCommand
from pipelines.engine.names import VALIDATION
from pipelines.engine.run import Run
from pipelines.evaluate.benchmarks import Benchmark, open_benchmark
from pipelines.evaluate.contenders import Contender, RestoredElsewhere, open_method, open_model
from pipelines.evaluate.report import report
from pipelines.evaluate.step import evaluate, open_validation
from pipelines.evaluate.tables import table
from pipelines.full import evaluate_and_report
from pipelines.synthesize.step import synthesize
from pipelines.train.step import train_with_upstream


class EvaluateCommand(StepCommand):
    """Evaluates the run's own model, or what the options name."""

    name = "evaluate"

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """See `Command`."""
        chosen = parser.add_mutually_exclusive_group()
        chosen.add_argument(
            "--model",
            metavar="MODEL",
            help="models:/NAME@ALIAS, models:/NAME/NUMBER, a checkpoint directory or a released file",
        )
        chosen.add_argument("--method", choices=METHODS, help="another method, from --weights")
        chosen.add_argument(
            "--restored",
            metavar="BENCHMARK=FOLDER",
            action="append",
            help="what was restored elsewhere; may be repeated",
        )
        parser.add_argument("--weights", metavar="FILE", type=Path, help="the released weights of --method")
        parser.add_argument("--label", help="what tables call it")
        parser.add_argument(
            "--benchmark",
            metavar="NAME",
            action="append",
            help="of evaluation.benchmarks, or validation for the dataset's own faces; may be repeated (default: all "
            "of the configuration's)",
        )

    def steps(self, options: argparse.Namespace) -> tuple[str, ...]:  # noqa: ARG002
        """See `StepCommand`."""
        return ("evaluate", "report")

    def work(self, run: Run, options: argparse.Namespace) -> list[str]:
        """See `StepCommand`."""
        if not (options.model or options.method or options.restored):
            dataset = synthesize(run)
            return evaluate_and_report(run, train_with_upstream(run, "restoration", dataset), dataset)
        evaluated = evaluate(run, *_asked(run, options))
        return [table(evaluated), f"report: {report(run, evaluated, None)}"]


def _asked(run: Run, options: argparse.Namespace) -> tuple[Contender, list[Benchmark]]:
    """Return what to evaluate, and on what."""
    configured = run.config.evaluation.benchmarks
    if options.restored:
        places = dict(_place(text) for text in options.restored)
        _check_benchmarks(places, configured, "--restored")
        label = options.label or Path(next(iter(places.values()))).name
        contender = RestoredElsewhere(label, ", ".join(places.values()))
        return contender, [open_benchmark(name, configured[name], place) for name, place in places.items()]
    if options.method and options.weights is None:
        raise UserError(f"--method {options.method} needs --weights FILE, as its authors released them")
    names = options.benchmark or list(configured)
    if not names:
        raise UserError("no benchmark is configured: set evaluation.benchmarks.NAME.lq, or give --benchmark validation")
    _check_benchmarks(names, [*configured, VALIDATION], "--benchmark")
    model = (
        open_model(run.tracking, options.model, options.label)
        if options.model
        else open_method(options.method, options.weights, options.label)
    )
    return model, [
        open_validation(run, synthesize(run)) if name == VALIDATION else open_benchmark(name, configured[name])
        for name in names
    ]


def _place(text: str) -> tuple[str, str]:
    name, separator, place = text.partition("=")
    if not (name and separator and place):
        raise UserError(f"--restored {text} is not of the form celeba-test=FOLDER")
    return name, place


def _check_benchmarks(names: Iterable[str], valid: Iterable[str], option: str) -> None:
    for name in names:
        if name not in valid:
            raise UserError(f"{option} {name}: the configured benchmarks are {', '.join(valid) or 'none'}")


COMMAND = EvaluateCommand()
