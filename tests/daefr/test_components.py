"""The facial-component term: boxes, crops, discriminators, losses, and its way through training and checkpoints."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from daefr import ranks
from daefr.checkpoint import Checkpoint
from daefr.data.dataset import Batch, FaceDataset
from daefr.data.manifest import write_dataset_manifest
from daefr.data.order import Position
from daefr.data.shards import write_shard
from daefr.errors import UserError
from daefr.faces.components import COMPONENTS, component_boxes, flip_boxes
from daefr.faces.template import template_landmarks
from daefr.images import Image, encode_lossless
from daefr.losses.logistic import logistic_discriminator_loss, logistic_generator_loss
from daefr.losses.style import gram, style_loss
from daefr.network.component_discriminator import ComponentDiscriminator
from daefr.released import export_released
from daefr.settings.base import StageName
from daefr.settings.network import AutoencoderConfig, DiscriminatorConfig, NetworkConfig
from daefr.settings.training import AutoencoderTraining, ComponentsConfig
from daefr.stages import AutoencoderStage, init_from_checkpoint, init_from_upstream, stage_from_checkpoint
from daefr.stages.components import PREFIX, ComponentDiscriminators
from daefr.tensors import from_8_bit, to_tensor
from daefr.training.loop import train
from daefr.training.optimization import Optimization
from daefr.training.reporter import FolderReporter, Save
from daefr.training.state import TrainingState
from tests.daefr import tiny

ON = {"weight": 1.5}
SIDE = 64
# whole pixels: eyes 15 to 25 and 39 to 49, mouth 25 to 40
LANDMARKS = [[20.0, 30.0], [44.0, 28.0], [32.0, 40.0], [27.0, 48.5], [38.0, 48.5]]
BOXES = {"left_eye": [15, 25, 25, 35], "right_eye": [39, 23, 49, 33], "mouth": [25, 41, 40, 56]}
AUTOENCODERS: tuple[StageName, ...] = ("hq_codebook", "lq_codebook", "association")


def _noise(seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def _boxes(count: int = 1) -> Tensor:
    return torch.tensor([[BOXES[name] for name in COMPONENTS]] * count, dtype=torch.float32)


def _cutter() -> ComponentDiscriminators:
    """Discriminators of 64-pixel images, for what they crop."""
    autoencoder = AutoencoderConfig(resolution=SIDE, channels=8, multipliers=(1,), attention_resolutions=(), groups=4)
    network = NetworkConfig(autoencoder=autoencoder, discriminator=DiscriminatorConfig(channels=4))
    return ComponentDiscriminators(["hq"], network, ComponentsConfig())


def _batch(seed: int = 0, count: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 3, tiny.SIDE, tiny.SIDE)
    batch = {name: torch.rand(shape, generator=generator) * 2 - 1 for name in ("hq", "lq")}
    boxes = component_boxes(template_landmarks(tiny.SIDE), tiny.SIDE)
    return batch | {"components": torch.tensor([[boxes[name] for name in COMPONENTS]] * count)}


def _build(name: StageName, seed: int = 0, **changes: Any) -> AutoencoderStage:
    stage = tiny.build(name, seed, **changes)
    assert isinstance(stage, AutoencoderStage)
    return stage


def _components(stage: AutoencoderStage) -> ComponentDiscriminators:
    assert stage.discriminator.components is not None
    return stage.discriminator.components


def test_boxes_of_known_landmarks() -> None:
    assert component_boxes(LANDMARKS, SIDE) == BOXES


@pytest.mark.parametrize("resolution", [64, 256, 512])
def test_boxes_scale_with_the_resolution(resolution: int) -> None:
    scale = resolution / SIDE
    scaled = component_boxes([[x * scale, y * scale] for x, y in LANDMARKS], resolution)
    assert scaled == {name: [scale * edge for edge in box] for name, box in BOXES.items()}
    widths = {name: (box[2] - box[0], box[3] - box[1]) for name, box in scaled.items()}
    eye, mouth = 80 * resolution / 512, 120 * resolution / 512
    assert widths == {"left_eye": (eye, eye), "right_eye": (eye, eye), "mouth": (mouth, mouth)}


def test_the_template_is_the_aligned_512_crop() -> None:
    assert template_landmarks(512)[0] == pytest.approx([192.98, 239.95])
    assert template_landmarks(64)[4] == pytest.approx([313.09 / 8, 371.15 / 8])
    box = component_boxes(template_landmarks(512), 512)["mouth"]
    assert box == pytest.approx([197.175, 311.28, 317.175, 431.28], abs=1e-2)


def test_a_crop_is_what_is_in_the_box() -> None:
    image = to_tensor(_noise())[None]
    for name, crop in zip(COMPONENTS, _cutter().crop(image, _boxes()), strict=True):
        left, top, right, bottom = BOXES[name]
        torch.testing.assert_close(crop, image[:, :, top:bottom, left:right])


def test_each_image_is_cropped_at_its_own_boxes() -> None:
    images = torch.stack([to_tensor(_noise(seed)) for seed in range(2)])
    boxes = _boxes(2)
    boxes[1] += 3
    first = _cutter().crop(images[:1], boxes[:1])
    second = _cutter().crop(images[1:], boxes[1:])
    for both, one, other in zip(_cutter().crop(images, boxes), first, second, strict=True):
        assert torch.equal(both, torch.cat([one, other]))
    assert torch.equal(second[2], images[1:, :, 44:59, 28:43])


@pytest.mark.parametrize("boxes", [BOXES, component_boxes(template_landmarks(SIDE), SIDE)])
def test_boxes_flip_as_pixels_do(boxes: dict[str, list[float]]) -> None:
    image = _noise()
    mine = np.array([boxes[name] for name in COMPONENTS], np.float32)
    before = mine.copy()
    flipped = flip_boxes(mine, SIDE)
    assert np.array_equal(mine, before), "the boxes themselves are left as they were"
    np.testing.assert_allclose(flip_boxes(flipped, SIDE), mine, atol=1e-5)
    left, right, mouth = _cutter().crop(to_tensor(image)[None], torch.from_numpy(mine)[None])
    mirrored = _cutter().crop(to_tensor(image[:, ::-1])[None], torch.from_numpy(flipped)[None])
    for found, expected in zip(mirrored, (right, left, mouth), strict=True):
        torch.testing.assert_close(found, expected.flip(3), atol=1e-4, rtol=0)


def _one_face(folder: Path, image: Image, about: dict[str, Any]) -> Path:
    sample = {"__key__": "face", "hq.webp": encode_lossless(image), "json": json.dumps(about).encode()}
    shard = write_shard(folder / "train-0.tar", [sample])
    write_dataset_manifest(folder, resolution=SIDE, recipes={}, variants={}, seed=0, train=[shard], validation=[])
    return folder


def test_a_dataset_gives_boxes_that_follow_the_flip(tmp_path: Path) -> None:
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    colours = {"left_eye": [255, 0, 0], "right_eye": [0, 255, 0], "mouth": [0, 0, 255]}
    for name, (left, top, right, bottom) in BOXES.items():
        image[top:bottom, left:right] = colours[name]
    folder = _one_face(tmp_path, image, {"components": component_boxes(LANDMARKS, SIDE)})
    dataset = FaceDataset(folder, "train", ("hq", "components"), flip=True)
    flips = set()
    for epoch in range(8):
        sample = dataset[Position(epoch, 0, 0)]
        assert sample["components"].shape == (3, 4)
        assert sample["components"].dtype == torch.float32
        flipped = sample["components"][0].tolist() != BOXES["left_eye"]
        flips.add(flipped)
        shown = ("right_eye", "left_eye", "mouth") if flipped else COMPONENTS
        crops = _cutter().crop(from_8_bit(sample["hq"][None], torch.contiguous_format), sample["components"][None])
        for name, crop in zip(shown, crops, strict=True):
            colour = torch.tensor(colours[name]) / 127.5 - 1
            assert torch.equal(crop, colour.view(1, 3, 1, 1).expand_as(crop))
    assert flips == {False, True}


def test_boxes_are_read_only_when_asked_for(tmp_path: Path) -> None:
    folder = _one_face(tmp_path, _noise(), {"components": None})
    assert FaceDataset(folder, "train", ("hq",))[Position(0, 0, 0)].keys() == {"hq"}
    with pytest.raises(UserError, match=r"face.*components\.weight=0"):
        FaceDataset(folder, "train", ("hq", "components"))[Position(0, 0, 0)]


def test_the_discriminator_is_the_familys() -> None:
    critic = ComponentDiscriminator(DiscriminatorConfig())
    convolutions = [module for module in critic.modules() if isinstance(module, nn.Conv2d)]
    assert [conv.out_channels for conv in convolutions] == [64, 128, 128, 256, 256, 1]
    assert [conv.stride[0] for conv in convolutions] == [1, 2, 1, 2, 1, 1]
    judged = critic(torch.rand(2, 3, 20, 20))
    assert judged.scores.shape == (2, 1, 5, 5)
    assert [feature.shape for feature in judged.features] == [(2, 128, 10, 10), (2, 256, 5, 5)]
    # the signal keeps its size through the layers
    seen = critic(torch.randn(2, 3, 80, 80)).features
    assert all(0.3 < feature.square().mean().sqrt().item() < 3 for feature in seen)


def test_crops_of_any_size_are_judged() -> None:
    critic = ComponentDiscriminator(DiscriminatorConfig(channels=4))
    assert [critic(torch.rand(1, 3, side, side)).scores.shape[2] for side in (1, 2, 3, 10, 15)] == [1, 1, 1, 3, 4]


def test_style_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    fine, coarse = torch.rand(2, 4, 6, 6, generator=generator), torch.rand(2, 8, 3, 3, generator=generator)
    expected = torch.einsum("bihw,bjhw->bij", fine, fine) / (4 * 6 * 6)
    torch.testing.assert_close(gram(fine), expected)
    assert style_loss((fine, coarse), (fine, coarse)).item() == 0
    # it looks at what there is, not at where it is
    assert style_loss((fine.flip(3), coarse.flip(2)), (fine, coarse)).item() == pytest.approx(0, abs=1e-7)
    apart = style_loss((2 * fine, coarse), (fine, coarse))
    assert apart.item() == pytest.approx(0.5 * 3 * gram(fine).mean().item(), rel=1e-5)
    assert style_loss((fine, 2 * coarse), (fine, coarse)).item() == pytest.approx(3 * gram(coarse).mean().item())


def test_logistic_losses() -> None:
    scores = torch.tensor([-2.0, 0.5, 3.0])
    ones, zeros = torch.ones(3), torch.zeros(3)
    cross_entropy = nn.functional.binary_cross_entropy_with_logits
    torch.testing.assert_close(logistic_generator_loss(scores), cross_entropy(scores, ones))
    expected = cross_entropy(scores, ones) + cross_entropy(-2 * scores, zeros)
    torch.testing.assert_close(logistic_discriminator_loss(scores, -2 * scores), expected)


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_off_by_default(name: StageName, monkeypatch: pytest.MonkeyPatch) -> None:
    assert AutoencoderTraining(steps=1).components.weight == 0

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("computed, though it is off")

    monkeypatch.setattr(ComponentDiscriminators, "__init__", never)
    monkeypatch.setattr(ComponentDiscriminators, "crop", never)
    stage = _build(name, adversarial={"start_step": 0})
    assert "components" not in stage.parts
    branches = {"hq_codebook": ("hq",), "lq_codebook": ("lq",)}.get(name, ("hq", "lq"))
    heads = tuple(f"{part}.{branch}." for part in ("generator", "discriminator") for branch in branches)
    assert all(tensor.startswith(heads) for tensor in stage.weights())
    batch = {part: image for part, image in _batch().items() if part != "components"}
    _, terms = Optimization(TrainingState(stage.train(), tiny.settings(name)), torch.device("cpu")).step(batch)
    assert not any("eye" in term or "mouth" in term or "style" in term for term in terms)


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_the_term_leaves_the_other_networks_fresh_weights_as_they_are(name: StageName) -> None:
    without, within = _build(name, seed=3).weights(), _build(name, seed=3, components=ON).weights()
    added = within.keys() - without.keys()
    assert all(torch.equal(tensor, within[tensor_name]) for tensor_name, tensor in without.items())
    assert all(tensor_name.startswith(PREFIX) for tensor_name in added)
    assert {tensor_name.removeprefix(PREFIX).split(".")[1] for tensor_name in added} == {*COMPONENTS}


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_a_step_with_the_term_on(name: StageName) -> None:
    stage = _build(name, components=ON, adversarial={"start_step": 1})
    assert stage.parts[-1] == "components"
    training = tiny.settings(name, components=ON, adversarial={"start_step": 1})
    optimization = Optimization(TrainingState(stage.train(), training), torch.device("cpu"))
    before = {path: parameter.detach().clone() for path, parameter in _components(stage).named_parameters()}

    def moved() -> set[bool]:
        return {not torch.equal(parameter, before[path]) for path, parameter in _components(stage).named_parameters()}

    _, terms = optimization.step(_batch())
    assert not any("eye" in term or "style" in term for term in terms)
    assert moved() == {False}
    _, terms = optimization.step(_batch(1))
    branches = ("hq_", "lq_") if name == "association" else ("",)
    turns = [f"{component}_{turn}" for component in COMPONENTS for turn in ("generator", "discriminator")]
    for term in [f"{branch}{own}" for branch in branches for own in [*turns, "style"]]:
        assert torch.isfinite(terms[term]), term
        assert terms[term] > 0, term
    assert moved() == {True}


def _generator_gradients(stage: AutoencoderStage, batch: Batch) -> dict[str, Tensor]:
    stage.zero_grad()
    output = stage.generator(stage.generator_input(batch))
    loss = stage.generator_loss(output, batch, adversarial=True, average=ranks.average)
    loss.total.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None for parameter in stage.discriminator.parameters())
    return {path: p.grad for path, p in stage.generator.named_parameters() if p.grad is not None}


def test_the_generators_gradients_come_from_inside_the_boxes() -> None:
    components = _components(_build("hq_codebook", components=ON))
    batch = _batch(count=1)
    image = torch.zeros_like(batch["hq"]).requires_grad_()
    components.generator_loss("hq", image, batch["hq"], batch["components"]).total.backward()  # type: ignore[no-untyped-call]
    assert image.grad is not None
    reached = image.grad.abs().sum((0, 1)) > 0
    assert reached.any()
    assert not reached[:5].any(), "above the eyes is no component"
    assert all(parameter.grad is None for parameter in components.parameters())


def test_both_losses_reach_the_decoder() -> None:
    batch = _batch()
    gradients = [
        _generator_gradients(_build("hq_codebook", components=components), batch)["hq.decoder.conv_out.weight"]
        for components in ({}, {"weight": 1.5, "style_weight": 0}, {"weight": 1e-9, "style_weight": 2000})
    ]
    assert not torch.allclose(gradients[0], gradients[1])
    assert not torch.allclose(gradients[0], gradients[2])


def test_equal_images_have_no_style_loss() -> None:
    components = _components(_build("hq_codebook", components=ON))
    batch = _batch()
    equal = components.generator_loss("hq", batch["hq"], batch["hq"], batch["components"])
    other = components.generator_loss("hq", -batch["hq"], batch["hq"], batch["components"])
    assert equal.terms["style"].item() == 0
    assert other.terms["style"].item() > 0
    expected = 1.5 * sum(other.terms[f"{name}_generator"] for name in COMPONENTS) + 2000 * other.terms["style"]
    torch.testing.assert_close(other.total, expected)


def test_discriminators_learn_to_tell() -> None:
    stage = _build("hq_codebook", components=ON)
    batch = _batch()
    optimizer = torch.optim.Adam(stage.discriminator.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        scores = stage.discriminator({"hq": batch["hq"]}, {"hq": batch["hq"].flip(2) / 2}, batch["components"])
        loss = stage.discriminator_loss(scores)
        optimizer.zero_grad()
        loss.total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(sum(loss.terms[f"{name}_discriminator"].item() for name in COMPONENTS))
    assert losses[-1] < 0.7 * losses[0]


class InterruptedReporter(FolderReporter):
    def checkpoint(self, step: int, save: Save) -> None:
        super().checkpoint(step, save)
        raise InterruptedError


def _newest(reporter: FolderReporter) -> Checkpoint:
    found = reporter.resume()
    assert found is not None
    return found


def test_a_continued_training_is_the_uninterrupted_one(dataset: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"components": ON, "steps": 4}
    straight, first, second = (
        kind(tmp_path / name)
        for name, kind in (("straight", FolderReporter), ("first", InterruptedReporter), ("second", FolderReporter))
    )
    train(_build("association", **settings), tiny.settings("association", **settings), dataset, straight)
    with pytest.raises(InterruptedError):
        train(
            _build("association", **settings),
            tiny.settings("association", **settings, checkpoint_every_n_steps=2),
            dataset,
            first,
        )
    stage = _build("association", seed=5, **settings)
    train(stage, tiny.settings("association", **settings), dataset, second, resume=_newest(first))
    whole, halves = _newest(straight), _newest(second)
    assert any(name.startswith(PREFIX) for name in whole.tensors())
    torch.testing.assert_close(halves.tensors(), whole.tensors(), rtol=0, atol=0)
    torch.testing.assert_close(halves.trainer(), whole.trainer(), rtol=0, atol=0)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


@pytest.fixture
def with_components(tmp_path: Path) -> dict[StageName, Checkpoint]:
    return {
        name: tiny.checkpoint(tmp_path / name, _build(name, seed=30 + number, components=ON))
        for number, name in enumerate(AUTOENCODERS)
    }


def test_the_association_takes_over_what_a_codebook_has(
    checkpoints: dict[StageName, Checkpoint], with_components: dict[StageName, Checkpoint]
) -> None:
    upstream: dict[StageName, Checkpoint] = {
        "hq_codebook": with_components["hq_codebook"],
        "lq_codebook": checkpoints["lq_codebook"],
    }
    stage = _build("association", seed=99, components=ON)
    init_from_upstream(stage, upstream)
    mine, hq, fresh = stage.weights(), upstream["hq_codebook"].tensors(), _build("association", 99, components=ON)
    torch.testing.assert_close(_part(mine, f"{PREFIX}hq."), _part(hq, f"{PREFIX}hq."), rtol=0, atol=0)
    torch.testing.assert_close(_part(mine, f"{PREFIX}lq."), _part(fresh.weights(), f"{PREFIX}lq."), rtol=0, atol=0)
    assert _part(hq, PREFIX)


def test_what_has_no_use_for_them_leaves_them_behind(with_components: dict[StageName, Checkpoint]) -> None:
    association = _build("association", seed=99)
    init_from_upstream(association, {name: with_components[name] for name in ("hq_codebook", "lq_codebook")})
    assert not _part(association.weights(), PREFIX)
    for name, checkpoint in with_components.items():
        evaluated = stage_from_checkpoint(checkpoint)
        stored = checkpoint.tensors()
        assert {part: tensor.shape for part, tensor in evaluated.weights().items()} == {
            part: tensor.shape for part, tensor in stored.items() if not part.startswith(PREFIX)
        }, name
    restoration = tiny.build("restoration")
    init_from_upstream(restoration, {name: with_components[name] for name in ("hq_codebook", "association")})
    own = with_components["hq_codebook"].tensors()["generator.hq.decoder.conv_out.weight"]
    assert torch.equal(restoration.weights()["generator.decoder.conv_out.weight"], own)


def test_a_checkpoint_without_them_is_trained_on_with_fresh_ones(checkpoints: dict[StageName, Checkpoint]) -> None:
    stage = _build("hq_codebook", seed=99, components=ON)
    init_from_checkpoint(stage, checkpoints["hq_codebook"])
    stored = checkpoints["hq_codebook"].tensors()
    torch.testing.assert_close(_part(stage.weights(), "generator."), _part(stored, "generator."), rtol=0, atol=0)
    fresh = _build("hq_codebook", seed=99, components=ON).weights()
    torch.testing.assert_close(_part(stage.weights(), PREFIX), _part(fresh, PREFIX), rtol=0, atol=0)


def test_a_checkpoint_with_only_some_of_them_is_rejected(with_components: dict[StageName, Checkpoint]) -> None:
    stage = _build("hq_codebook", components=ON)
    tensors = with_components["hq_codebook"].tensors()
    del tensors[f"{PREFIX}hq.mouth.score.bias"]
    with pytest.raises(UserError, match=r"mouth\.score\.bias"):
        stage.load_weights(tensors, "it")


def test_an_export_leaves_them_behind(with_components: dict[StageName, Checkpoint], tmp_path: Path) -> None:
    export_released(with_components["hq_codebook"].path, tmp_path / "hq.ckpt")
    exported = torch.load(tmp_path / "hq.ckpt", weights_only=True)["state_dict"]
    assert len(exported) == len(_build("hq_codebook").weights())


def test_they_need_an_adversarial_turn() -> None:
    with pytest.raises(ValueError, match=r"components\.weight.*adversarial\.weight"):
        AutoencoderTraining.model_validate({"steps": 1, "components": ON, "adversarial": {"weight": 0}})
