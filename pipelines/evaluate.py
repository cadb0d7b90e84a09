"""Step: measure a trained restoration model on the validation faces."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # run as a script: put the project on the path, and let Ray's workers find this file under its module's name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from pipelines.cli import run_step

    sys.exit(run_step("evaluate"))

import json
from typing import Any

from daefr.checkpoint import load_checkpoint
from daefr.data.dataset import Fetch
from daefr.data.images import encode_png
from daefr.evaluate import Evaluation, evaluate
from pipelines.run import Run
from pipelines.steps import Committed
from pipelines.synthesize import DATASET, shard_cache
from pipelines.tasks import run_task
from pipelines.train import CHECKPOINT

VERSION = 1
GRID, TABLE = "grid.png", "evaluation.json"
SETTINGS = {"batch": 8, "grid_faces": 8}


def evaluate_restoration(run: Run, restoration: Committed, dataset: Committed) -> Committed:
    """Measure the restoration checkpoint of a run, or find it measured."""

    def work(folder: Path, run_id: str) -> tuple[dict[str, Any], list[str]]:
        shards = dataset.folder / DATASET
        result = run_task("evaluate", _evaluate, restoration.folder / CHECKPOINT, shards, shard_cache(run, shards))
        means = result.means()
        (folder / GRID).write_bytes(encode_png(result.grid))
        (folder / TABLE).write_text(json.dumps({"means": means, "faces": result.rows}, indent=2) + "\n")
        for name in (GRID, TABLE):
            run.tracking.client.log_artifact(run_id, str(folder / name))
            run.tracking.client.log_artifact(run.parent, str(folder / name))
        numbers = {
            f"{measure}/{name.replace(' ', '_')}": value
            for name, measures in means.items()
            for measure, value in measures.items()
        }
        for target in (run_id, run.parent):
            with run.writer(target) as writer:
                writer.log(0, numbers)
        return {"means": means, "faces": len(result.rows)}, [GRID, TABLE]

    inputs = {"restoration": restoration.as_input(), "dataset": dataset.as_input()}
    return run.step("evaluate", VERSION, SETTINGS, inputs, work)


def _evaluate(checkpoint: Path, dataset: Path, fetch: Fetch | None) -> Evaluation:
    return evaluate(
        load_checkpoint(checkpoint), dataset, batch=SETTINGS["batch"], faces=SETTINGS["grid_faces"], fetch=fetch
    )


def table(evaluated: Committed) -> str:
    """Return the measures as a table for people."""
    lines = [f"{'':>12} {'PSNR (dB)':>10} {'SSIM':>7}"]
    for name, measures in evaluated.manifest.outputs["means"].items():
        lines.append(f"{name:>12} {measures['psnr']:>10.2f} {measures['ssim']:>7.3f}")
    return "\n".join(lines)
