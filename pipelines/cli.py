"""The command line that all steps share.

A step's libraries are imported when it is its turn: training's take seconds and 500 MB.
"""

import argparse
import sys
from collections.abc import Callable
from errno import EDQUOT, ENOSPC
from pathlib import Path

from daefr.config import StageName
from daefr.errors import UserError
from pipelines.cluster import ROOT
from pipelines.config import STAGES, load_config, show_config
from pipelines.errors import StepFailedError
from pipelines.preflight import check
from pipelines.progress import say
from pipelines.run import Run, open_run
from pipelines.steps import Committed
from pipelines.synthesize import synthesize

DEMO = ROOT / "pipelines/configs/demo.yaml"


def run_step(name: str) -> int:
    """Run the step of that name with the arguments of the command line, and return the exit code.

    0 for success, 1 when a step failed, 2 for the user's mistake, 130 after Ctrl-C.
    """
    options = _parser(name).parse_intermixed_args()
    try:
        config = load_config(options.config, options.overrides)
        if options.print_config:
            sys.stdout.write(show_config(config))
            return 0
        check(config)
        stage: StageName | None = getattr(options, "stage", None)
        with open_run(config, f"{name} {stage}" if stage else name, only=_only(name, stage)) as run:
            lines = STEPS[name](run, stage)
    except UserError as error:
        return _complain(error, 2)
    except StepFailedError as error:
        return _complain(error, 1)
    except OSError as error:
        if error.errno not in (ENOSPC, EDQUOT):
            raise
        return _complain(f"{error}: make room, and the same command goes on from here", 1)
    except KeyboardInterrupt:
        say("interrupted: the same command goes on from here")
        return 130
    sys.stdout.write("\n".join([*lines, ""]))
    return 0


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python pipelines/{name}.py", description=sys.modules["__main__"].__doc__)
    parser.add_argument("--config", type=Path, default=DEMO, help="YAML file of the run (default: the demo's)")
    parser.add_argument("--print-config", action="store_true", help="print the whole configuration and stop")
    if name in ("train", "promote"):
        parser.add_argument("--stage", required=True, choices=STAGES)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as stages.restoration.steps=200")
    return parser


def _only(name: str, stage: StageName | None) -> str | None:
    if name == "full":
        return None
    return {"train": f"{stage}", "promote": f"promote_{stage}"}.get(name, name)


def _complain(error: Exception | str, code: int) -> int:
    say(f"error: {error}")
    return code


def _trained(run: Run, name: StageName, dataset: Committed) -> Committed:
    from daefr.stages import UPSTREAM  # noqa: PLC0415
    from pipelines.train import train_stage  # noqa: PLC0415

    return train_stage(run, name, dataset, {before: _trained(run, before, dataset) for before in UPSTREAM[name]})


def _synthesize(run: Run, _: StageName | None) -> list[str]:
    return [f"dataset: {synthesize(run).folder / 'dataset'}"]


def _train(run: Run, stage: StageName | None) -> list[str]:
    assert stage is not None  # noqa: S101  # the parser requires it
    return [f"model: {_trained(run, stage, synthesize(run)).folder / 'checkpoint'}"]


def _evaluate(run: Run, _: StageName | None) -> list[str]:
    from pipelines.evaluate import evaluate_restoration, table  # noqa: PLC0415

    dataset = synthesize(run)
    evaluated = evaluate_restoration(run, _trained(run, "restoration", dataset), dataset)
    return [table(evaluated), f"grid: {evaluated.folder / 'grid.png'}"]


def _promote(run: Run, stage: StageName | None) -> list[str]:
    assert stage is not None  # noqa: S101  # the parser requires it
    from pipelines.promote import promote  # noqa: PLC0415

    dataset = synthesize(run)
    return [promote(run, stage, _trained(run, stage, dataset), dataset)]


def _full(run: Run, _: StageName | None) -> list[str]:
    from pipelines.full import run_all  # noqa: PLC0415

    return run_all(run)


STEPS: dict[str, Callable[[Run, StageName | None], list[str]]] = {
    "full": _full,
    "synthesize": _synthesize,
    "train": _train,
    "evaluate": _evaluate,
    "promote": _promote,
}
