"""The whole pipeline: synthesize, the four stages, evaluate, promote."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # run as a script: put the project on the path, and let Ray's workers find this file under its module's name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from pipelines.engine.command import run_command

    sys.exit(run_command("pipelines.full"))

import argparse
from concurrent.futures import ThreadPoolExecutor

from daefr.settings.base import StageName
from pipelines.engine import cluster
from pipelines.engine.command import StepCommand
from pipelines.engine.progress import say
from pipelines.engine.run import Run
from pipelines.engine.signals import TerminatedError
from pipelines.engine.step import Committed
from pipelines.preflight import check_nodes, remarks
from pipelines.synthesize.step import synthesize

CODEBOOKS: tuple[StageName, StageName] = ("hq_codebook", "lq_codebook")


def run_all(run: Run) -> list[str]:
    """Run every step that is not committed; return the lines that tell the result."""
    for line in remarks(run.config):
        say(line)
    check_nodes(run.config)
    dataset = synthesize(run)

    # only now: training's libraries take seconds and 500 MB, which planning millions of faces does without
    from pipelines.promote.step import promote  # noqa: PLC0415
    from pipelines.train.step import CHECKPOINT, train_stage  # noqa: PLC0415

    trained: dict[StageName, Committed] = dict(zip(CODEBOOKS, _train_codebooks(run, dataset), strict=True))
    for name in CODEBOOKS:
        say(promote(run, name, trained[name], dataset))
    trained["association"] = train_stage(run, "association", dataset, trained)
    say(promote(run, "association", trained["association"], dataset))
    trained["restoration"] = train_stage(run, "restoration", dataset, trained)
    lines = evaluate_and_report(run, trained["restoration"], dataset)
    say(promote(run, "restoration", trained["restoration"], dataset))
    return [*lines, f"model: {trained['restoration'].folder / CHECKPOINT}"]


def evaluate_and_report(run: Run, restoration: Committed, dataset: Committed) -> list[str]:
    """Evaluate a trained restoration model beside the one that it would replace; return the lines that tell it."""
    from pipelines.evaluate.report import report  # noqa: PLC0415
    from pipelines.evaluate.step import GRID, evaluate_restoration, evaluate_version  # noqa: PLC0415
    from pipelines.evaluate.tables import table  # noqa: PLC0415
    from pipelines.tracking import registry  # noqa: PLC0415

    evaluated = evaluate_restoration(run, restoration, dataset)
    rival = registry.rival(run.tracking, "restoration", restoration.manifest.outputs["version"])
    champion = None if rival is None else evaluate_version(run, rival, dataset)
    page = report(run, evaluated, champion)
    return [table(evaluated), f"report: {page}", f"grid: {evaluated.folder / GRID}"]


def _train_codebooks(run: Run, dataset: Committed) -> list[Committed]:
    """Train both codebooks, at the same time where the cluster has room for both."""
    from pipelines.train.step import train_stage  # noqa: PLC0415

    with ThreadPoolExecutor(len(CODEBOOKS)) as pool:
        futures = [pool.submit(train_stage, run, name, dataset, {}) for name in CODEBOOKS]
        try:
            return [future.result() for future in futures]
        except (KeyboardInterrupt, TerminatedError):
            cluster.disconnect()  # which ends the trainings that the threads wait for
            raise


class _Full(StepCommand):
    name = "full"

    def steps(self, options: argparse.Namespace) -> None:  # noqa: ARG002
        return None

    def work(self, run: Run, options: argparse.Namespace) -> list[str]:  # noqa: ARG002
        return run_all(run)


COMMAND = _Full()
