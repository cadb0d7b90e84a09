"""The whole pipeline: synthesize, the four stages, evaluate, promote."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # run as a script: put the project on the path, and let Ray's workers find this file under its module's name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from pipelines.cli import run_step

    sys.exit(run_step("full"))

from concurrent.futures import ThreadPoolExecutor

from daefr.config import StageName
from pipelines import cluster
from pipelines.progress import say
from pipelines.run import Run
from pipelines.steps import Committed
from pipelines.synthesize import synthesize

CODEBOOKS: tuple[StageName, StageName] = ("hq_codebook", "lq_codebook")


def run_all(run: Run) -> list[str]:
    """Run every step that is not committed; return the lines that tell the result."""
    dataset = synthesize(run)

    # only now: training's libraries take seconds and 500 MB, which planning millions of faces does without
    from pipelines.evaluate import GRID, evaluate_restoration, table  # noqa: PLC0415
    from pipelines.promote import promote  # noqa: PLC0415
    from pipelines.train import CHECKPOINT, train_stage  # noqa: PLC0415

    trained: dict[StageName, Committed] = dict(zip(CODEBOOKS, _train_codebooks(run, dataset), strict=True))
    for name in CODEBOOKS:
        say(promote(run, name, trained[name], dataset))
    trained["association"] = train_stage(run, "association", dataset, trained)
    say(promote(run, "association", trained["association"], dataset))
    trained["restoration"] = train_stage(run, "restoration", dataset, trained)
    evaluated = evaluate_restoration(run, trained["restoration"], dataset)
    say(promote(run, "restoration", trained["restoration"], dataset))
    return [
        table(evaluated),
        f"model: {trained['restoration'].folder / CHECKPOINT}",
        f"grid: {evaluated.folder / GRID}",
    ]


def _train_codebooks(run: Run, dataset: Committed) -> list[Committed]:
    """Train both codebooks, at the same time where the cluster has room for both."""
    from pipelines.train import train_stage  # noqa: PLC0415

    with ThreadPoolExecutor(len(CODEBOOKS)) as pool:
        futures = [pool.submit(train_stage, run, name, dataset, {}) for name in CODEBOOKS]
        try:
            return [future.result() for future in futures]
        except KeyboardInterrupt:
            cluster.disconnect()  # which ends the trainings that the threads wait for
            raise
