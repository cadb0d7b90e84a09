"""Processes that decode images, below workers of Ray, change nothing but the time."""

from pathlib import Path

import pytest

from daefr.checkpoint import digest_of
from pipelines.config import load_config
from pipelines.engine.run import open_run
from pipelines.synthesize.step import synthesize
from pipelines.train.step import CHECKPOINT, train_stage
from tests.e2e.command import TINY

pytestmark = pytest.mark.usefixtures("one_cluster")


def _train(workdir: Path, *overrides: str) -> str:
    steps = ["stages.hq_codebook.steps=8", "stages.hq_codebook.validate_every=4"]
    config = load_config(TINY, [f"workdir={workdir}", *steps, *overrides])
    with open_run(config, "train") as run:
        return digest_of(train_stage(run, "hq_codebook", synthesize(run), {}).folder / CHECKPOINT)


def test_a_training_with_processes_that_decode_gives_the_same_weights(tmp_path: Path) -> None:
    alone = _train(tmp_path / "alone", "compute.hq_codebook.loaders=0")
    assert _train(tmp_path / "two", "compute.hq_codebook.loaders=2") == alone
