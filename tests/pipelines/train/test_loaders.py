"""Processes that decode images, below workers of Ray, change nothing but the time."""

from pathlib import Path

import pytest

from daefr.checkpoint import checkpoint_digest
from pipelines.chain import open_chain
from pipelines.config import load_config
from pipelines.train.publish import CHECKPOINT
from tests.e2e.command import TINY

pytestmark = pytest.mark.usefixtures("one_cluster")


def _train(workdir: Path, *overrides: str) -> str:
    steps = ["stages.hq_codebook.steps=8", "stages.hq_codebook.validate_every_n_steps=4"]
    config = load_config(TINY, [f"workdir={workdir}", *steps, *overrides])
    with open_chain(config, "train") as chain:
        return checkpoint_digest(chain.train("hq_codebook", chain.synthesize(), {}).folder / CHECKPOINT)


def test_a_training_with_processes_that_decode_gives_the_same_weights(tmp_path: Path) -> None:
    alone = _train(tmp_path / "alone", "compute.hq_codebook.dataloader_workers=0")
    assert _train(tmp_path / "two", "compute.hq_codebook.dataloader_workers=2") == alone
