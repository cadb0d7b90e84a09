"""The identity term: ArcFace's network, the loss, its weights file, and its way through training."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from daefr import ranks
from daefr.data.dataset import Batch
from daefr.errors import UserError
from daefr.losses.identity import IdentityLoss
from daefr.network.arcface import ArcFace
from daefr.settings.base import StageName
from daefr.settings.training import AutoencoderTraining
from daefr.stages import AutoencoderStage, stage_from_checkpoint
from daefr.training.loop import train
from daefr.training.reporter import FolderReporter, Save
from tests.daefr import tiny

# of the layers and blocks of the published network, as far as they differ in kind
RELEASED_SHAPES = {
    "conv1.weight": (64, 1, 3, 3),
    "bn1.running_mean": (64,),
    "prelu.weight": (1,),
    "layer1.0.bn0.weight": (64,),
    "layer1.1.conv2.weight": (64, 64, 3, 3),
    "layer2.0.conv1.weight": (64, 64, 3, 3),
    "layer2.0.conv2.weight": (128, 64, 3, 3),
    "layer2.0.downsample.0.weight": (128, 64, 1, 1),
    "layer2.0.downsample.1.bias": (128,),
    "layer4.1.prelu.weight": (1,),
    "layer4.1.bn2.running_var": (512,),
    "bn4.weight": (512,),
    "fc5.weight": (512, 32768),
    "fc5.bias": (512,),
    "bn5.bias": (512,),
}


def _arcface() -> ArcFace:
    """A narrow network whose embeddings are not all alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ArcFace(channels=4)


def _images(seed: int = 0, count: int = 2, side: int = tiny.SIDE) -> torch.Tensor:
    return torch.rand((count, 3, side, side), generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stored as the published file is: from a network that was wrapped for several GPUs."""
    path = tmp_path_factory.mktemp("arcface") / "arcface.pth"
    torch.save(nn.DataParallel(_arcface()).state_dict(), path)
    return path


def _build(name: StageName, weights: Path, **changes: Any) -> AutoencoderStage:
    stage = tiny.build(name, identity={"weight": 3, "arcface": weights}, **changes)
    assert isinstance(stage, AutoencoderStage)
    return stage


def test_the_network_is_the_published_one() -> None:
    with torch.device("meta"):
        network = ArcFace()
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert {name: shapes.get(name) for name in RELEASED_SHAPES} == RELEASED_SHAPES
    assert {name.split(".")[0] for name in shapes} == {
        *("conv1", "bn1", "prelu", "layer1", "layer2", "layer3", "layer4", "bn4", "fc5", "bn5")
    }
    assert sum("downsample.0" in name for name in shapes) == 3
    with torch.device("meta"):
        assert network(torch.empty(2, 1, 128, 128)).shape == (2, 512)


def test_the_same_face_has_no_loss_and_another_one_has() -> None:
    loss, images = IdentityLoss(_arcface()), _images()
    torch.testing.assert_close(loss(images, images), torch.zeros(2), atol=1e-6, rtol=0)
    other = loss(_images(1), images)
    assert other.shape == (2,)
    assert (other > 1e-4).all()
    assert (other <= 2).all()
    # each image is measured alone
    torch.testing.assert_close(loss(_images(1)[1:], images[1:]), other[1:])


def test_the_network_sees_gray_faces_of_128_pixels() -> None:
    loss, images = IdentityLoss(_arcface()), _images(side=64)
    seen = []
    loss.arcface.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    loss(images, images)
    gray = 0.2989 * images[:, 0] + 0.5870 * images[:, 1] + 0.1140 * images[:, 2]
    expected = nn.functional.interpolate(gray[:, None], (128, 128), mode="bilinear", align_corners=False)
    assert len(seen) == 2
    for inputs in seen:
        torch.testing.assert_close(inputs, expected)


def test_it_falls_under_optimization() -> None:
    loss, target = IdentityLoss(_arcface()), _images()
    image = _images(1).requires_grad_()
    optimizer = torch.optim.Adam([image], lr=0.05)
    values = []
    for _ in range(20):
        value = loss(image, target).mean()
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.5 * values[0]


def test_it_is_frozen_and_always_in_eval_mode(weights: Path) -> None:
    loss = IdentityLoss.load(weights)
    before = {name: tensor.clone() for name, tensor in loss.state_dict().items()}
    nn.ModuleList([loss]).train()
    assert not any(module.training for module in loss.modules())
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    loss(_images().requires_grad_(), _images(1)).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(dict(loss.state_dict()), before, rtol=0, atol=0)
    target = _images(1).requires_grad_()
    assert not loss(_images(), target).requires_grad, "no gradients flow to the target"


def test_weights_are_read_from_their_file(weights: Path) -> None:
    loaded = IdentityLoss.load(weights)
    torch.testing.assert_close(dict(loaded.arcface.state_dict()), dict(_arcface().state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("path", [None, Path("nowhere/arcface.pth")])
def test_a_missing_file_is_one_line_that_says_what_to_do(path: Path | None) -> None:
    with pytest.raises(UserError) as caught:
        tiny.build("hq_codebook", identity={"weight": 3, "arcface": path})
    message = str(caught.value)
    assert "\n" not in message
    assert "releases/download/v0.1.0/arcface_resnet18.pth" in message
    assert "identity.weight=0" in message
    assert path is None or str(path) in message


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run",)


@pytest.mark.parametrize("content", [
    b"",
    b"not a checkpoint at all",
    pickle.dumps(Hostile(), 2),
    [1, 2],
    {"step": 1},
    {"conv1.weight": torch.zeros(4, 1, 3, 3)},
    {"conv1.weight": torch.zeros(())},
    {},
])  # fmt: skip
def test_another_file_is_rejected_in_one_line(content: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "arcface.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=rf"^.*{path}.*$"):
        IdentityLoss.load(path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["hq_codebook", "lq_codebook", "association"])
def test_off_by_default(name: StageName) -> None:
    assert AutoencoderTraining(steps=1).identity.weight == 0
    stage = tiny.build(name)
    assert isinstance(stage, AutoencoderStage)
    assert stage.identity is None
    # given, but not asked for: not even read
    tiny.build(name, identity={"arcface": "nowhere.pth"})


def _loss(stage: AutoencoderStage, batch: Batch) -> tuple[float, dict[str, float], torch.Tensor]:
    output = stage.train().generator(stage.generator_input(batch))
    loss = stage.generator_loss(output, batch, adversarial=False, average=ranks.average)
    loss.total.backward()  # type: ignore[no-untyped-call]
    gradient = stage.generator.branch(stage.branches[0]).decoder.last_layer.grad
    assert gradient is not None
    return loss.total.item(), {name: term.item() for name, term in loss.terms.items()}, gradient


@pytest.mark.parametrize("name", ["hq_codebook", "association"])
def test_the_term_in_a_stage(name: StageName, weights: Path) -> None:
    batch = {"hq": _images(2), "lq": _images(3)}
    without, _, plain = _loss(tiny.build(name), batch)  # type: ignore[arg-type]
    stage = _build(name, weights)
    total, terms, gradient = _loss(stage, batch)
    added = [terms[term] for term in (("hq_identity", "lq_identity") if name == "association" else ("identity",))]
    assert all(value > 0 for value in added)
    assert total == pytest.approx(without + 3 * sum(added), rel=1e-5)
    assert not torch.allclose(gradient, plain), "it reaches the decoder"
    assert stage.weights().keys() == tiny.build(name).weights().keys(), "a checkpoint does not hold ArcFace"


class InterruptedReporter(FolderReporter):
    def checkpoint(self, step: int, save: Save) -> None:
        super().checkpoint(step, save)
        raise InterruptedError


def test_a_continued_training_is_the_uninterrupted_one(dataset: Path, tmp_path: Path, weights: Path) -> None:
    """With the facial components too: both optional terms at once."""
    on: dict[str, Any] = {"components": {"weight": 1.5}, "steps": 2}
    trained = {"identity": {"weight": 3, "arcface": weights}, **on}
    straight, first, second = (
        kind(tmp_path / name)
        for name, kind in (("straight", FolderReporter), ("first", InterruptedReporter), ("second", FolderReporter))
    )
    train(_build("hq_codebook", weights, **on), tiny.settings("hq_codebook", **trained), dataset, straight)
    with pytest.raises(InterruptedError):
        interrupted = tiny.settings("hq_codebook", **trained, checkpoint_every_n_steps=1)
        train(_build("hq_codebook", weights, **on), interrupted, dataset, first)
    resume = first.resume()
    assert resume is not None
    assert resume.trainer()["step"] == 1
    train(
        _build("hq_codebook", weights, seed=5, **on),
        tiny.settings("hq_codebook", **trained),
        dataset,
        second,
        resume=resume,
    )
    whole, halves = straight.resume(), second.resume()
    assert whole is not None
    assert halves is not None
    torch.testing.assert_close(halves.tensors(), whole.tensors(), rtol=0, atol=0)
    torch.testing.assert_close(halves.trainer(), whole.trainer(), rtol=0, atol=0)
    assert straight.history[0][1]["identity"] > 0
    assert any(values.get("validation_identity", 0) > 0 for _, values in straight.history)
    assert isinstance(stage_from_checkpoint(whole), AutoencoderStage)
