"""A tiny dataset and checkpoints of every stage, made once."""

from pathlib import Path

import pytest
import torch

from daefr.checkpoint import Checkpoint
from daefr.settings.base import StageName
from daefr.stages import STAGES
from tests.daefr import tiny


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny tensors are slower on several threads than on one."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[StageName, Checkpoint]:
    """A checkpoint of each stage, each with weights of its own; not to be changed."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        name: tiny.checkpoint(folder / name, tiny.build(name, seed=10 + number)) for number, name in enumerate(STAGES)
    }
