"""Every part of the networks is compiled, once per kind of step, and none silently runs uncompiled."""

from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from daefr import compilation
from daefr.settings.base import StageName
from daefr.settings.network import AutoencoderConfig
from daefr.speed import COMPILED_PARTS, prepare_network
from daefr.stages import STAGES, Stage
from daefr.training.loop import train
from daefr.training.reporter import FolderReporter, Save
from tests.daefr import tiny

LEVELS = (1, 2, 2, 4, 4, 8)
SIDE = 32
NETWORK = tiny.NETWORK.model_copy(
    update={
        "autoencoder": AutoencoderConfig(
            resolution=SIDE, channels=4, multipliers=LEVELS, blocks=1, attention_resolutions=(1,), groups=2,
            latent_channels=4, codes=16, code_channels=8,
        )
    }
)  # fmt: skip


@pytest.fixture(autouse=True)
def _graphs_run_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(compilation, "BACKEND", "eager")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_dataset(tmp_path_factory.mktemp("dataset"), side=SIDE)


class Compilations(FolderReporter):
    """Counts graphs at each checkpoint, which every step ends with."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.graphs: list[int] = []

    def checkpoint(self, step: int, save: Save) -> None:  # noqa: ARG002
        self.graphs.append(counters["stats"]["unique_graphs"])


def _compiled_in_training(stage: Stage) -> int:
    """The number of parts that a training step runs: all but the frozen decoder of restoration."""
    frozen = ("generator.decoder.",) if stage.name == "restoration" else ()
    return sum(isinstance(part, COMPILED_PARTS) and not name.startswith(frozen) for name, part in stage.named_modules())


@pytest.mark.parametrize("name", STAGES)
def test_no_part_is_compiled_again(dataset: Path, tmp_path: Path, name: StageName) -> None:
    changes = {
        "steps": 4, "global_batch_size": 4, "gradient_accumulation_steps": 2,
        "validate_every_n_steps": 2, "checkpoint_every_n_steps": 1, "ema_decay": 0.9,
        "speed": {"compile": True, "autocast": "bfloat16"},
    }  # fmt: skip
    reporter = Compilations(tmp_path)
    stage = tiny.build(name, network=NETWORK, **changes)
    train(stage, tiny.settings(name, **changes), dataset, reporter)
    # the first step with the discriminator, validation and the second half of a batch bring nothing new
    assert reporter.graphs == [_compiled_in_training(stage)] * 4
    assert reporter.graphs[0] > torch._dynamo.config.recompile_limit
    assert not counters["graph_break"]


def test_training_and_evaluation_share_no_limit() -> None:
    stage = tiny.build("lq_codebook", network=NETWORK, speed={"compile": True})
    prepare_network(stage, tiny.settings("lq_codebook", speed={"compile": True}).speed, torch.device("cpu"))
    parts = sum(isinstance(part, COMPILED_PARTS) for part in stage.modules())
    images = {"lq": torch.zeros(2, 3, SIDE, SIDE)}
    for _ in range(2):
        stage.train().generator(images)
        with torch.no_grad():
            stage.eval().generator(images)
        assert counters["stats"]["unique_graphs"] == 2 * parts


def test_a_part_that_reaches_the_limit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 1)
    layer = torch.nn.Linear(2, 2)
    compiled = compilation.compile_forward(layer)
    compiled(torch.zeros(1, 2))
    with pytest.raises((torch._dynamo.exc.FailOnRecompileLimitHit, torch._dynamo.exc.Unsupported)):
        compiled(torch.zeros(1, 2, dtype=torch.float64, requires_grad=True))
