"""The four stages: what each starts from, trains, leaves alone and minimizes, and parity with the reference."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from daefr import ranks
from daefr.checkpoint import Checkpoint
from daefr.data.dataset import Batch
from daefr.errors import UserError
from daefr.losses.perceptual import PerceptualLoss
from daefr.settings.base import StageName
from daefr.settings.network import DiscriminatorConfig, NetworkConfig
from daefr.settings.training import AutoencoderTraining, RestorationTraining
from daefr.stages import (
    STAGES,
    AutoencoderStage,
    Loss,
    RestorationStage,
    Stage,
    build_stage,
    init_from_checkpoint,
    init_from_upstream,
    stage_from_checkpoint,
)
from daefr.training.optimization import Optimization
from daefr.training.state import TrainingState
from tests.daefr import tiny
from tests.daefr.reference import (
    GRADIENT_TOLERANCE,
    LOSS_TOLERANCE,
    TINY_RESTORATION,
    assert_gradient_norms,
    figures,
    needs_reference,
    part,
    released_name,
    tiny_inputs,
    weights,
)

CODEBOOKS: tuple[StageName, ...] = ("hq_codebook", "lq_codebook")
AUTOENCODERS: tuple[StageName, ...] = (*CODEBOOKS, "association")
RELEASED = NetworkConfig(**dict(TINY_RESTORATION))
GAN_WEIGHT = 0.8
BRANCH_PREFIXES = {"hq": ("vqvae.", "loss."), "lq": ("vqvae_LQ.", "loss_LQ.")}

Checkpoints = Mapping[StageName, Checkpoint]


def _batch(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    shape = (4, 3, tiny.SIDE, tiny.SIDE)
    return {name: torch.rand(shape, generator=generator) * 2 - 1 for name in ("hq", "lq")}


def _take_steps(stage: Stage, steps: int) -> list[dict[str, Tensor]]:
    """Take optimizer steps as training does; return each one's terms."""
    training = tiny.settings(stage.name)
    optimization = Optimization(TrainingState(stage.train(), training), torch.device("cpu"))
    return [optimization.step(_batch(seed))[1] for seed in range(steps)]


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def _same(module: nn.Module, other: nn.Module | Mapping[str, Tensor]) -> bool:
    mine = module.state_dict()
    theirs = other.state_dict() if isinstance(other, nn.Module) else other
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def _autoencoders(checkpoint: Checkpoint) -> AutoencoderStage:
    stage = stage_from_checkpoint(checkpoint)
    assert isinstance(stage, AutoencoderStage)
    return stage


def _association(checkpoints: Checkpoints) -> AutoencoderStage:
    stage = tiny.build("association", seed=99)
    init_from_upstream(stage, {name: checkpoints[name] for name in CODEBOOKS})
    assert isinstance(stage, AutoencoderStage)
    return stage


def _restoration(checkpoints: Checkpoints) -> RestorationStage:
    stage = tiny.build("restoration", seed=99)
    init_from_upstream(stage, {name: checkpoints[name] for name in ("hq_codebook", "association")})
    assert isinstance(stage, RestorationStage)
    return stage


@pytest.mark.parametrize(("branch", "source"), [("hq", "hq_codebook"), ("lq", "lq_codebook")])
def test_association_starts_from_both_codebooks_whole(checkpoints: Checkpoints, branch: str, source: StageName) -> None:
    codebook, association = _autoencoders(checkpoints[source]), _association(checkpoints)
    assert _same(association.generator.branch(branch), codebook.generator.branch(branch))
    assert _same(association.discriminator[branch], codebook.discriminator[branch])


def test_restoration_starts_from_the_frozen_codebook_and_the_associated_encoders(checkpoints: Checkpoints) -> None:
    codebook = _autoencoders(checkpoints["hq_codebook"]).generator.branch("hq")
    association = _autoencoders(checkpoints["association"]).generator
    fresh = tiny.build("restoration", seed=99)
    stage = _restoration(checkpoints)
    model = stage.generator
    assert _same(stage.target.encoder, codebook.encoder)
    assert _same(stage.target.quant_conv, codebook.quant_conv)
    assert _same(stage.target.codebook, codebook.quantize)
    assert _same(model.codebook, codebook.quantize)
    assert _same(model.post_quant_conv, codebook.post_quant_conv)
    assert _same(model.decoder, codebook.decoder)
    assert _same(model.hq_encoder, association.branch("hq").encoder)
    assert _same(model.hq_quant_conv, association.branch("hq").quant_conv)
    assert _same(model.lq_encoder, association.branch("lq").encoder)
    assert _same(model.lq_quant_conv, association.branch("lq").quant_conv)
    assert _same(model.fusion, fresh.generator.fusion)
    assert _same(model.predictor, fresh.generator.predictor)


def test_the_codebooks_start_from_scratch() -> None:
    for name in CODEBOOKS:
        stage = tiny.build(name, seed=5)
        init_from_upstream(stage, {})
        assert _same(stage, tiny.build(name, seed=5))
        assert not _same(stage, tiny.build(name, seed=6))


def test_building_a_stage_leaves_the_callers_random_numbers_alone() -> None:
    before = torch.random.get_rng_state()
    tiny.build("association", seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_restoration_trains_all_but_what_is_frozen(checkpoints: Checkpoints) -> None:
    stage = _restoration(checkpoints)
    model = stage.generator
    frozen = {
        "target": stage.target,
        "codebook": model.codebook,
        "post_quant_conv": model.post_quant_conv,
        "decoder": model.decoder,
    }
    trained = (
        model.hq_encoder, model.hq_quant_conv, model.lq_encoder, model.lq_quant_conv, model.fusion, model.predictor
    )  # fmt: skip
    frozen_before = {name: _copy(module) for name, module in frozen.items()}
    trained_before = [_copy(module) for module in trained]
    _take_steps(stage, 3)
    for name, module in frozen.items():
        assert not any(parameter.requires_grad for parameter in module.parameters()), name
        assert not any(inner.training for inner in module.modules()), name
        assert _same(module, frozen_before[name]), name
    for module, before in zip(trained, trained_before, strict=True):
        assert all(inner.training for inner in module.modules())
        _assert_all_trained(module, before)


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_autoencoder_stages_train_everything(name: StageName) -> None:
    stage = tiny.build(name)
    generator, discriminator = _copy(stage.generator), _copy(stage.discriminator)  # type: ignore[arg-type]
    _take_steps(stage, 3)
    _assert_all_trained(stage.generator, generator)
    # while every score lies within the hinge, real and generated images pull its last bias equally hard
    _assert_all_trained(stage.discriminator, discriminator, but="main.8.bias")  # type: ignore[arg-type]


def _assert_all_trained(module: nn.Module, before: Mapping[str, Tensor], but: str = "nothing") -> None:
    still = [
        name
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and torch.equal(parameter, before[name]) and not name.endswith(but)
    ]
    assert still == []


@pytest.mark.parametrize(("stage", "given", "wrong"), [
    ("association", "hq_codebook", "lq_codebook"),
    ("association", "lq_codebook", "association"),
    ("restoration", "hq_codebook", "lq_codebook"),
    ("restoration", "association", "hq_codebook"),
    ("restoration", "association", "restoration"),
])  # fmt: skip
def test_a_checkpoint_of_another_stage_is_refused(
    checkpoints: Checkpoints, stage: StageName, given: StageName, wrong: StageName
) -> None:
    with pytest.raises(UserError, match=f"^{stage} .*{given}.*{checkpoints[wrong].path}.*{wrong}$"):
        init_from_upstream(tiny.build(stage), {**checkpoints, given: checkpoints[wrong]})


@pytest.mark.parametrize("name", ["association", "restoration"])
def test_a_checkpoint_of_another_network_is_rejected(checkpoints: Checkpoints, tmp_path: Path, name: StageName) -> None:
    autoencoder = tiny.NETWORK.autoencoder.model_copy(update={"codes": 32})
    network = tiny.NETWORK.model_copy(update={"autoencoder": autoencoder})
    other = tiny.checkpoint(tmp_path, tiny.build("hq_codebook", network=network))
    upstream = {before: checkpoints[before] for before in ("lq_codebook" if name == "association" else "association",)}
    with pytest.raises(UserError, match=f"^{name} .*{tmp_path}.*codes=32.*256$") as caught:
        init_from_upstream(tiny.build(name), {"hq_codebook": other, **upstream})
    assert "channels" not in str(caught.value), "only differences are named"


def test_a_checkpoint_with_another_discriminator_is_refused(checkpoints: Checkpoints, tmp_path: Path) -> None:
    network = tiny.NETWORK.model_copy(update={"discriminator": DiscriminatorConfig(channels=16, layers=2)})
    other = tiny.checkpoint(tmp_path, tiny.build("hq_codebook", network=network))
    with pytest.raises(UserError, match=r"^.*discriminator.*$"):
        init_from_upstream(tiny.build("association"), {"hq_codebook": other, "lq_codebook": checkpoints["lq_codebook"]})


def test_errors_name_the_tensors_that_do_not_match() -> None:
    stage = tiny.build("hq_codebook")
    tensors = dict(stage.weights())
    name, tensor = next(iter(tensors.items()))
    with pytest.raises(UserError, match=f"here .*{name}"):
        stage.load_weights({other: value for other, value in tensors.items() if other != name}, "here")
    with pytest.raises(UserError, match=r"here .*generator\.strange"):
        stage.load_weights(tensors | {"generator.strange": tensor}, "here")
    with pytest.raises(UserError, match=f"here.*{name}"):
        stage.load_weights(tensors | {name: torch.zeros(7)}, "here")


@pytest.mark.parametrize("name", STAGES)
def test_weights_hold_every_tensor_once_and_rebuild_the_stage(name: StageName) -> None:
    stage, other = tiny.build(name, seed=1), tiny.build(name, seed=2)
    tensors = stage.weights()
    places = [tensor.untyped_storage().data_ptr() for tensor in tensors.values()]
    assert len(set(places)) == len(places)
    assert {tensor.untyped_storage().data_ptr() for tensor in stage.parameters()} <= set(places)
    other.load_weights(dict(tensors), "here")
    stage.eval(), other.eval()
    batch = _batch()
    losses = [
        own.generator_loss(
            own.generator(own.generator_input(batch)), batch, adversarial=False, average=ranks.average
        ).total
        for own in (stage, other)
    ]
    assert torch.equal(*losses)


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_the_discriminator_rests_until_its_start(name: StageName) -> None:
    stage = tiny.build(name, adversarial={"start_step": 2})
    before = _copy(stage.discriminator)  # type: ignore[arg-type]
    state = TrainingState(stage.train(), tiny.settings(name))
    optimization = Optimization(state, torch.device("cpu"))
    gan_terms = ("generator", "adaptive_weight", "discriminator")
    for step in range(4):
        assert state.step == step
        _, terms = optimization.step(_batch(step))
        seen = {term for term in terms for gan in gan_terms if term.removeprefix("hq_").removeprefix("lq_") == gan}
        if step < 2:
            assert _same(stage.discriminator, before), "its BatchNorm too has seen nothing"  # type: ignore[arg-type]
            assert seen == set()
        else:
            assert not _same(stage.discriminator, before)  # type: ignore[arg-type]
            assert len(seen) == len(gan_terms) * (2 if name == "association" else 1)


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_without_weight_there_is_no_adversarial_term(name: StageName) -> None:
    stage = tiny.build(name, adversarial={"start_step": 0, "weight": 0})
    before = _copy(stage.discriminator)  # type: ignore[arg-type]
    _take_steps(stage, 2)
    assert _same(stage.discriminator, before)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", STAGES)
def test_a_step_runs_every_trained_network_once(name: StageName) -> None:
    stage = tiny.build(name, adversarial={"start_step": 0}) if name != "restoration" else tiny.build(name)
    calls: dict[str, int] = {}
    parts = {"generator": stage.generator} | {
        path: module for path, module in stage.generator.named_modules() if path.endswith(("encoder", "decoder"))
    }
    for path, module in parts.items():
        calls[path] = 0

        def count(*_: object, path: str = path) -> None:
            calls[path] += 1

        module.register_forward_hook(count)
    _take_steps(stage, 3)
    if name == "restoration":
        assert calls.pop("decoder") == 0, "no loss of this stage looks at an image"
    assert set(calls.values()) == {3}


def test_the_generator_term_moves_no_discriminator() -> None:
    stage = tiny.build("hq_codebook")
    assert isinstance(stage, AutoencoderStage)
    batch = _batch()
    output = stage.train().generator(stage.generator_input(batch))
    stage.generator_loss(output, batch, adversarial=True, average=ranks.average).total.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None for parameter in stage.discriminator.parameters())
    scores = stage.discriminator(*stage.discriminator_input(output, batch))
    before = [parameter.grad.clone() for parameter in stage.generator.parameters() if parameter.grad is not None]
    stage.discriminator_loss(scores).total.backward()  # type: ignore[no-untyped-call]
    after = [parameter.grad for parameter in stage.generator.parameters() if parameter.grad is not None]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_which_images_each_stage_reads_and_rebuilds() -> None:
    batch = _batch()
    for name, branches in (("hq_codebook", {"hq"}), ("lq_codebook", {"lq"}), ("association", {"hq", "lq"})):
        stage = tiny.build(name)  # type: ignore[arg-type]
        assert set(stage.parts) == {"hq" if branch == "hq" else "mild" for branch in branches}
        read = stage.generator_input({branch: batch[branch] for branch in branches})
        assert {branch: image is batch[branch] for branch, image in read.items()} == dict.fromkeys(branches, True)
    restoration = tiny.build("restoration")
    assert restoration.parts == ("hq", "severe")
    assert restoration.generator_input(batch) is batch["lq"]


def test_kmeans_start_and_restart_wake_codes() -> None:
    batch = _batch()
    stage = tiny.build("association", codebook={"kmeans_init": True, "reset_every_n_steps": 2})
    assert isinstance(stage, AutoencoderStage)
    before = {branch: _used(stage, branch, batch) for branch in ("hq", "lq")}
    stage.before_training(batch, seed=0)
    woken = {branch: _used(stage, branch, batch) for branch in ("hq", "lq")}
    assert all(woken[branch] > 2 * before[branch] for branch in before)

    plain = tiny.build("association", codebook={"reset_every_n_steps": 2})
    assert isinstance(plain, AutoencoderStage)
    output = plain.generator(plain.generator_input(batch))
    used = plain.code_indices(output)
    plain.after_step(1, output, used, seed=0)
    assert {branch: _used(plain, branch, batch) for branch in ("hq", "lq")} == before, "nothing is due at step 1"
    plain.after_step(2, output, used, seed=0)
    assert all(_used(plain, branch, batch) > before[branch] for branch in before)


@pytest.mark.parametrize(("until", "moves"), [(0, True), (3, False), (4, True)])
def test_restarts_end(until: int, moves: bool) -> None:
    stage = tiny.build("hq_codebook", codebook={"reset_every_n_steps": 4, "reset_until_step": until})
    assert isinstance(stage, AutoencoderStage)
    before = _copy(stage.generator)
    output = stage.generator(stage.generator_input(_batch()))
    stage.after_step(4, output, stage.code_indices(output), seed=0)
    assert _same(stage.generator, before) is not moves


def _used(stage: AutoencoderStage, branch: str, batch: Batch) -> int:
    vqgan = stage.generator.branch(branch)
    return len(vqgan.quantize.assign(vqgan.encode(batch[branch])).unique())


def _released(
    name: StageName, stored: Mapping[str, Tensor], branches: tuple[str, ...], perceptual: PerceptualLoss
) -> AutoencoderStage:
    """The stage with the reference's weights, and with its perceptual loss."""
    training = AutoencoderTraining.model_validate({"steps": 1, "adversarial": {"weight": GAN_WEIGHT, "start_step": 0}})
    with pytest.MonkeyPatch.context() as patch:
        # the figures were measured with a network of random weights in the place of VGG16
        patch.setattr(PerceptualLoss, "load", lambda *_: perceptual)
        stage = build_stage(name, RELEASED, training)
    assert isinstance(stage, AutoencoderStage)
    for branch in branches:
        network, loss = BRANCH_PREFIXES["hq" if len(branches) == 1 else branch]
        stage.generator.branch(branch).load_state_dict(part(stored, network))
        stage.discriminator[branch].load_state_dict(part(stored, f"{loss}discriminator."))
    return stage.train()  # type: ignore[return-value]


def _perceptual(stored: Mapping[str, Tensor], loss: str) -> PerceptualLoss:
    perceptual = PerceptualLoss()
    perceptual.load_state_dict(part(stored, f"{loss}perceptual_loss."))
    return perceptual


class PerceptualOfEachSide(PerceptualLoss):
    """The figures were measured with random weights, which are not the same on both sides, as the real ones are."""

    def __init__(self, hq: PerceptualLoss, lq: PerceptualLoss, hq_image: Tensor) -> None:
        super().__init__()
        self.hq, self.lq, self.hq_image = hq, lq, hq_image

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        distance: Tensor = (self.hq if torch.equal(target, self.hq_image) else self.lq)(image, target)
        return distance


def _assert_terms(loss: Loss, golden: Mapping[str, float], prefix: str = "") -> None:
    terms = {name.removeprefix(prefix): term.item() for name, term in loss.terms.items() if name.startswith(prefix)}
    measured = {
        "rec_loss": terms["l1"] + terms["perceptual"],
        "p_loss": terms["perceptual"],
        "quant_loss": terms["quantizer"],
        "g_loss": terms["generator"],
    } | ({"l1": terms["l1"]} if "l1" in golden else {})
    assert measured == pytest.approx({name: golden[name] for name in measured}, rel=LOSS_TOLERANCE)
    # a ratio of gradients, in which a slope of the discriminator may flip with the number of threads; the golden one
    # includes the constant factor
    weight = GAN_WEIGHT * terms["adaptive_weight"]
    assert weight == pytest.approx(golden["d_weight"], rel=GRADIENT_TOLERANCE)


def _gradients(module: nn.Module, prefix: str) -> dict[str, Tensor | None]:
    return {prefix + name: parameter.grad for name, parameter in module.named_parameters()}


@needs_reference
@pytest.mark.parametrize(("name", "branch"), [("hq_codebook", "hq"), ("lq_codebook", "lq")])
def test_codebook_stages_equal_the_reference(name: StageName, branch: str) -> None:
    golden = figures("golden_tiny.json")["codebook"]
    stored = weights("codebook_tiny")
    stage = _released(name, stored, (branch,), _perceptual(stored, "loss."))
    # both stages are the same code on other images; the figures were measured on one of them
    batch = {branch: tiny_inputs()[0]}
    output = stage.generator(stage.generator_input(batch))
    loss = stage.generator_loss(output, batch, adversarial=True, average=ranks.average)
    _assert_terms(loss, golden)
    assert loss.total.item() == pytest.approx(golden["total"], rel=LOSS_TOLERANCE)
    loss.total.backward()  # type: ignore[no-untyped-call]
    assert_gradient_norms(_gradients(stage.generator.branch(branch), "vqvae."), golden["grad_norms"])

    critics = stage.discriminator_loss(stage.discriminator(*stage.discriminator_input(output, batch)))
    assert critics.terms["discriminator"].item() == pytest.approx(golden["disc"]["loss"], rel=LOSS_TOLERANCE)
    critics.total.backward()  # type: ignore[no-untyped-call]
    assert_gradient_norms(_gradients(stage.discriminator[branch], "loss.discriminator."), golden["disc"]["grad_norms"])


@needs_reference
def test_association_stage_equals_the_reference() -> None:
    golden = figures("golden_tiny.json")["association"]
    stored = weights("association_tiny")
    batch = dict(zip(("hq", "lq"), tiny_inputs(), strict=True))
    sides = PerceptualOfEachSide(_perceptual(stored, "loss."), _perceptual(stored, "loss_LQ."), batch["hq"])
    stage = _released("association", stored, ("hq", "lq"), sides)
    output = stage.generator(stage.generator_input(batch))
    loss = stage.generator_loss(output, batch, adversarial=True, average=ranks.average)
    for branch in ("hq", "lq"):
        _assert_terms(loss, golden[branch], f"{branch}_")
    contrastive = golden["contrastive"]
    assert loss.terms["contrastive"].item() == pytest.approx(contrastive, rel=LOSS_TOLERANCE)
    # the figures count the contrastive loss once a side; here one pass serves both
    total = golden["hq_total"] + golden["lq_total"] - contrastive
    assert loss.total.item() == pytest.approx(total, rel=LOSS_TOLERANCE)
    loss.total.backward()  # type: ignore[no-untyped-call]
    gradients = {
        name: gradient
        for branch, (network, _) in BRANCH_PREFIXES.items()
        for name, gradient in _gradients(stage.generator.branch(branch), network).items()
    }
    assert_gradient_norms(gradients, golden["grad_norms"])


@needs_reference
def test_restoration_stage_equals_the_reference() -> None:
    golden = figures("golden_tiny.json")["daefr"]
    stored = weights("daefr_tiny")
    stage = build_stage("restoration", RELEASED, RestorationTraining(steps=1))
    assert isinstance(stage, RestorationStage)
    model = stage.train().generator
    model.load_state_dict({name: stored[released_name(name)] for name in model.state_dict()})
    stage.target.encoder.load_state_dict(part(stored, "vqvae.Fixed_encoder."))
    stage.target.quant_conv.load_state_dict(part(stored, "vqvae.Fixed_quant_conv."))
    batch = dict(zip(("hq", "lq"), tiny_inputs(), strict=True))
    output = model(stage.generator_input(batch))
    loss = stage.generator_loss(output, batch, adversarial=False, average=ranks.average)
    measured = {
        "code_loss": loss.terms["code"].item(),
        "feature_loss": loss.terms["feature"].item(),
        "total": loss.total.item(),
    }
    assert measured == pytest.approx({name: golden[name] for name in measured}, rel=LOSS_TOLERANCE)
    right = torch.tensor(golden["target_indices"]) == torch.tensor(golden["predicted_indices"])
    # a few predictions nearly tie
    assert loss.terms["code_accuracy"].item() == pytest.approx(right.float().mean().item(), abs=0.01)
    loss.total.backward()  # type: ignore[no-untyped-call]
    gradients = {released_name(name): gradient for name, gradient in _gradients(model, "").items()}
    assert_gradient_norms(gradients, golden["grad_norms"])
    assert stage.code_indices(output)[""].shape == (2, RELEASED.autoencoder.tokens)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_starts_from_checkpoints_of_the_same_stage_only(name: StageName, tmp_path: Path) -> None:
    before = tiny.checkpoint(tmp_path / "own", tiny.build(name, seed=1))
    stage = tiny.build(name, seed=2)
    init_from_checkpoint(stage, before)
    weights = stage.weights()
    assert all(torch.equal(tensor, weights[key]) for key, tensor in before.tensors().items())
    other = tiny.build("restoration" if name == "association" else "association")
    with pytest.raises(UserError, match=f"{name}.*{other.name}"):
        init_from_checkpoint(stage, tiny.checkpoint(tmp_path / "other", other))


def test_epochs_become_steps_of_the_data_set_at_hand() -> None:
    # the released recipe: 330 epochs of 70,000 faces, 32 at a time
    training = AutoencoderTraining(epochs=330, global_batch_size=32)
    assert training.in_steps(70_000).last_step == 721_875
    assert AutoencoderTraining(steps=7).in_steps(70_000).last_step == 7
    with pytest.raises(ValueError, match="in epochs"):
        _ = training.last_step
