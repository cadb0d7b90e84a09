"""The command line that all steps share.

A step's libraries are imported when it is its turn: training's take seconds and 500 MB.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import TYPE_CHECKING

from daefr.config import StageName
from daefr.errors import UserError
from pipelines.cluster import ROOT
from pipelines.config import STAGES, VALIDATION, RunConfig, load_config, show_config
from pipelines.errors import StepFailedError
from pipelines.preflight import check
from pipelines.progress import say
from pipelines.run import Run, open_run
from pipelines.steps import Committed
from pipelines.synthesize import synthesize
from pipelines.termination import EXIT_CODE, TerminatedError, heeded

if TYPE_CHECKING:
    from pipelines.evaluation.benchmarks import Benchmark
    from pipelines.evaluation.contenders import Contender

_OVERRIDE = re.compile(r"[a-z_.0-9]+=")
DEMO = ROOT / "pipelines/configs/demo.yaml"


def run_step(name: str) -> int:
    """Run the step of that name with the arguments of the command line, and return the exit code.

    0 for success, 1 when a step failed, 2 for the user's mistake, 130 after Ctrl-C, 143 after SIGTERM.
    """
    options = _parser(name).parse_intermixed_args()
    try:
        if name == "restore":
            _sort_out(options)
        config = load_config(options.config, [*options.overrides, *_shortcuts(name, options)])
        if options.print_config:
            sys.stdout.write(show_config(config))
            return 0
        lines = _serve(config) if name == "serve" else _run_in_mlflow(name, config, options)
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


def _serve(config: RunConfig) -> list[str]:
    from pipelines.serve import run_service  # noqa: PLC0415

    return run_service(config)


def _run_in_mlflow(name: str, config: RunConfig, options: argparse.Namespace) -> list[str]:
    if name != "restore":
        check(config)
    stage: StageName | None = getattr(options, "stage", None)
    with heeded(), open_run(config, f"{name} {stage}" if stage else name, only=_only(name, stage)) as run:
        return STEPS[name](run, options)


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python pipelines/{name}.py", description=sys.modules["__main__"].__doc__)
    parser.add_argument("--config", type=Path, default=DEMO, help="YAML file of the run (default: the demo's)")
    parser.add_argument("--print-config", action="store_true", help="print the whole configuration and stop")
    if name in ("train", "promote"):
        parser.add_argument("--stage", required=True, choices=STAGES)
    if name == "restore":
        place = "a folder or s3://bucket/prefix"
        parser.add_argument("source", metavar="IN", help=f"{place} of images, or of tar files with such; or a tar file")
        parser.add_argument("target", metavar="OUT", help=f"{place} for the restored images and their manifest")
        parser.add_argument("--aligned", action="store_true", help="stands for restore.aligned=true")
        parser.add_argument("--only-center-face", action="store_true", help="stands for restore.only_center_face=true")
    if name in ("restore", "serve"):
        parser.add_argument("--model", help="stands for restore.model=MODEL")
    if name == "serve":
        parser.add_argument("--host", help="stands for serve.host=HOST")
        parser.add_argument("--port", type=int, help="stands for serve.port=PORT")
    if name == "evaluate":
        _add_evaluate_options(parser)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as stages.restoration.steps=200")
    return parser


def _sort_out(options: argparse.Namespace) -> None:
    """Tell places from overrides, which may come in any order; a place with such a name can be given as ./a=b."""
    given = [options.source, options.target, *options.overrides]
    places = [place for place in given if not _OVERRIDE.match(place)]
    if len(places) != 2:
        raise UserError(f"IN and OUT are wanted, and given are {', '.join(places) or 'none'}")
    options.source, options.target = places
    options.overrides = [override for override in given if _OVERRIDE.match(override)]


def _shortcuts(name: str, options: argparse.Namespace) -> list[str]:
    """Return the overrides that options stand for."""
    keys = {
        "restore": ("restore.model", "restore.aligned", "restore.only_center_face"),
        "serve": ("restore.model", "serve.host", "serve.port"),
    }
    given = {key: getattr(options, key.rpartition(".")[2]) for key in keys.get(name, ())}
    return [f"{key}={json.dumps(value)}" for key, value in given.items() if value not in (None, False)]


def _only(name: str, stage: StageName | None) -> tuple[str, ...] | None:
    if name == "full":
        return None
    steps = {"train": (f"{stage}",), "promote": (f"promote_{stage}",), "evaluate": ("evaluate", "report")}
    return steps.get(name, (name,))


def _complain(error: Exception | str, code: int) -> int:
    say(f"error: {error}")
    return code


def _trained(run: Run, name: StageName, dataset: Committed) -> Committed:
    from daefr.stages import UPSTREAM  # noqa: PLC0415
    from pipelines.train import train_stage  # noqa: PLC0415

    return train_stage(run, name, dataset, {before: _trained(run, before, dataset) for before in UPSTREAM[name]})


def _synthesize(run: Run, _: argparse.Namespace) -> list[str]:
    return [f"dataset: {synthesize(run).folder / 'dataset'}"]


def _train(run: Run, options: argparse.Namespace) -> list[str]:
    return [f"model: {_trained(run, options.stage, synthesize(run)).folder / 'checkpoint'}"]


def _add_evaluate_options(parser: argparse.ArgumentParser) -> None:
    from daefr.evaluation.other_methods import METHODS  # noqa: PLC0415

    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--model", metavar="MODEL", help="models:/NAME@ALIAS, models:/NAME/NUMBER or a checkpoint")
    chosen.add_argument("--method", choices=METHODS, help="another method, from --weights")
    chosen.add_argument(
        "--restored", metavar="BENCHMARK=FOLDER", action="append", help="what was restored elsewhere; may be repeated"
    )
    parser.add_argument("--weights", metavar="FILE", type=Path, help="the released weights of --method")
    parser.add_argument("--label", help="what tables call it")
    parser.add_argument(
        "--benchmark",
        metavar="NAME",
        action="append",
        help="of evaluation.benchmarks, or validation for the dataset's own faces; may be repeated (default: all of "
        "the configuration's)",
    )


def _evaluate(run: Run, options: argparse.Namespace) -> list[str]:
    from pipelines.evaluate import evaluate  # noqa: PLC0415
    from pipelines.evaluation.tables import table  # noqa: PLC0415
    from pipelines.full import evaluate_and_report  # noqa: PLC0415
    from pipelines.report import report  # noqa: PLC0415

    if not (options.model or options.method or options.restored):
        dataset = synthesize(run)
        return evaluate_and_report(run, _trained(run, "restoration", dataset), dataset)
    evaluated = evaluate(run, *_asked(run, options))
    return [table(evaluated), f"report: {report(run, evaluated, None)}"]


def _asked(run: Run, options: argparse.Namespace) -> "tuple[Contender, list[Benchmark]]":
    """Return what to evaluate, and on what."""
    from pipelines.evaluate import open_validation  # noqa: PLC0415
    from pipelines.evaluation.benchmarks import open_benchmark  # noqa: PLC0415
    from pipelines.evaluation.contenders import RestoredElsewhere, open_method, open_model  # noqa: PLC0415

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


def _promote(run: Run, options: argparse.Namespace) -> list[str]:
    from pipelines.promote import promote  # noqa: PLC0415

    dataset = synthesize(run)
    return [promote(run, options.stage, _trained(run, options.stage, dataset), dataset)]


def _restore(run: Run, options: argparse.Namespace) -> list[str]:
    from pipelines.restore import restore  # noqa: PLC0415

    return restore(run, options.source, options.target)


def _full(run: Run, _: argparse.Namespace) -> list[str]:
    from pipelines.full import run_all  # noqa: PLC0415

    return run_all(run)


STEPS: dict[str, Callable[[Run, argparse.Namespace], list[str]]] = {
    "full": _full,
    "synthesize": _synthesize,
    "train": _train,
    "evaluate": _evaluate,
    "promote": _promote,
    "restore": _restore,
}
