"""The networks: shapes, refusals, the codebook's remedies, and parity with the reference implementation."""

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from daefr.errors import UserError
from daefr.network.autoencoder import Decoder, Encoder
from daefr.network.blocks import AttentionBlock
from daefr.network.discriminator import Discriminator
from daefr.network.quantizer import Quantizer, codebook_usage, count_codes
from daefr.network.restoration import CodeTarget, RestorationModel
from daefr.network.vqgan import VQGAN
from daefr.settings.network import AutoencoderConfig, DiscriminatorConfig, PredictorConfig, RestorationConfig
from tests.daefr.reference import (
    LOSS_TOLERANCE,
    TINY,
    TINY_RESTORATION,
    assert_indices,
    assert_summary,
    figures,
    needs_reference,
    part,
    path,
    released_name,
    tiny_inputs,
    weights,
)

SMALL = AutoencoderConfig(
    resolution=16,
    channels=8,
    multipliers=(1, 2),
    blocks=1,
    attention_resolutions=(8,),
    groups=4,
    latent_channels=12,
    codes=20,
    code_channels=8,
)
SMALL_RESTORATION = RestorationConfig(
    autoencoder=SMALL, predictor=PredictorConfig(width=16, layers=2, heads=2, mlp=24, fusion_heads=2)
)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def images(generator: torch.Generator) -> Tensor:
    return torch.rand(2, 3, SMALL.resolution, SMALL.resolution, generator=generator) * 2 - 1


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"resolution": 500}, "resolution.* 32"),
        ({"resolution": 16}, "resolution.* 32"),
        ({"channels": 48}, "groups.* 48"),
        ({"attention_resolutions": (16, 20)}, "attention_resolutions.*20.*512, 256, 128, 64, 32, 16"),
        ({"codes": 0}, "codes"),
        ({"multipliers": ()}, "multipliers"),
        ({"chanels": 64}, "chanels"),
    ],
)
def test_autoencoder_config_rejects(changes: dict[str, object], names: str) -> None:
    with pytest.raises(ValidationError, match=names):
        AutoencoderConfig.model_validate(changes)


def test_predictor_config_rejects_heads_that_do_not_divide() -> None:
    with pytest.raises(ValidationError, match=r"heads.*width"):
        PredictorConfig(heads=7)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"predictor": {"fusion_heads": 7}}, r"predictor\.fusion_heads"),
        ({"autoencoder": {"code_channels": 40}}, r"autoencoder\.groups"),
    ],
)
def test_restoration_config_rejects(changes: dict[str, object], key: str) -> None:
    with pytest.raises(ValidationError, match=key):
        RestorationConfig.model_validate(changes)


def test_released_sizes() -> None:
    config = RestorationConfig()
    assert config.autoencoder.latent_side == 16
    with torch.device("meta"):
        model = RestorationModel(config)
        encoder, decoder = Encoder(config.autoencoder), Decoder(config.autoencoder)
    assert _millions(encoder) == pytest.approx(29.42, abs=0.005)
    assert _millions(decoder) == pytest.approx(42.87, abs=0.005)
    # the published count includes the training target's encoder and three copies of the codebook
    copies = _millions(encoder) + _millions(model.hq_quant_conv) + 2 * _millions(model.codebook)
    assert _millions(model) + copies == pytest.approx(152.15, abs=0.005)


def test_vqgan_shapes(images: Tensor) -> None:
    model = VQGAN(SMALL)
    output = model(images)
    assert output.reconstruction.shape == images.shape
    assert output.z.shape == (2, SMALL.code_channels, SMALL.latent_side, SMALL.latent_side)
    assert output.loss.shape == ()
    assert output.indices.shape == (2, SMALL.tokens)


def test_every_trainable_parameter_gets_a_gradient(images: Tensor) -> None:
    vqgan = VQGAN(SMALL)
    output = vqgan(images)
    (output.reconstruction.square().mean() + output.loss).backward()
    restoration = RestorationModel(SMALL_RESTORATION)
    logits, feature = restoration(images)
    (logits.square().mean() + feature.square().mean()).backward()
    for model in (vqgan, restoration):
        idle = [name for name, tensor in model.named_parameters() if tensor.requires_grad and tensor.grad is None]
        assert idle == []


def test_norm2_is_trainable_in_cross_attention_only() -> None:
    assert not AttentionBlock(8, groups=4).norm2.weight.requires_grad
    assert AttentionBlock(8, groups=4, cross=True).norm2.weight.requires_grad


def test_quantizer_is_straight_through(generator: torch.Generator) -> None:
    quantizer = Quantizer(codes=6, channels=4)
    z = torch.randn(2, 4, 3, 3, generator=generator).requires_grad_()
    output = quantizer(z)
    output.quantized.sum().backward()
    assert torch.equal(z.grad, torch.ones_like(z))  # type: ignore[arg-type]
    assert quantizer.embedding.weight.grad is None
    torch.testing.assert_close(output.quantized, quantizer.lookup(output.indices, side=3))


def test_quantizer_takes_the_nearest_code(generator: torch.Generator) -> None:
    quantizer = Quantizer(codes=6, channels=4)
    z = torch.randn(2, 4, 3, 5, generator=generator)
    distances = torch.cdist(z.flatten(2).transpose(1, 2), quantizer.embedding.weight)
    assert torch.equal(quantizer(z).indices, distances.argmin(2))


def test_quantizer_chooses_in_float32_under_autocast(generator: torch.Generator) -> None:
    quantizer = Quantizer(codes=64, channels=4)
    z = torch.randn(2, 4, 8, 8, generator=generator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = quantizer(z)
    assert output.quantized.dtype == torch.float32
    assert torch.equal(output.indices, quantizer(z).indices)


def test_kmeans_start_uses_more_codes(generator: torch.Generator) -> None:
    quantizer = Quantizer(codes=32, channels=4)
    z = torch.randn(4, 4, 8, 8, generator=generator) + 3
    before = codebook_usage(count_codes(quantizer(z).indices, quantizer.codes))
    quantizer.initialize(z, generator)
    after = codebook_usage(count_codes(quantizer(z).indices, quantizer.codes))
    assert after.perplexity > 2 * before.perplexity
    assert after.dead_fraction == 0


def test_kmeans_start_is_reproducible_and_needs_no_large_batch(generator: torch.Generator) -> None:
    z = torch.randn(1, 4, 3, 3, generator=generator)
    codebooks = []
    for _ in range(2):
        quantizer = Quantizer(codes=32, channels=4)
        quantizer.initialize(z, torch.Generator().manual_seed(1))
        codebooks.append(quantizer.embedding.weight)
    assert torch.equal(*codebooks)
    assert len(torch.unique(codebooks[0], dim=0)) == 32


def test_restart_moves_dead_codes_only(generator: torch.Generator) -> None:
    quantizer = Quantizer(codes=32, channels=4)
    z = torch.randn(4, 4, 8, 8, generator=generator) + 3
    counts = count_codes(quantizer(z).indices, quantizer.codes)
    before = quantizer.embedding.weight.detach().clone()
    moved = quantizer.reset_dead_codes(z, counts, generator)
    assert moved == (counts == 0).sum()
    assert torch.equal(quantizer.embedding.weight[counts > 0], before[counts > 0])
    after = codebook_usage(count_codes(quantizer(z).indices, quantizer.codes))
    assert after.dead_fraction < codebook_usage(counts).dead_fraction


def test_restart_leaves_a_used_codebook_alone(generator: torch.Generator) -> None:
    quantizer = Quantizer(codes=3, channels=4)
    before = quantizer.embedding.weight.detach().clone()
    assert quantizer.reset_dead_codes(torch.zeros(1, 4, 2, 2), torch.ones(3), generator) == 0
    assert torch.equal(quantizer.embedding.weight, before)


def test_codebook_usage_counts() -> None:
    usage = codebook_usage(torch.tensor([5, 5, 0, 0]))
    assert usage.perplexity == pytest.approx(2)
    assert usage.dead_fraction == 0.5


def test_restoration_shapes(images: Tensor) -> None:
    model = RestorationModel(SMALL_RESTORATION)
    output = model(images)
    assert output.logits.shape == (2, SMALL.tokens, SMALL.codes)
    assert output.feature.shape == (2, SMALL.code_channels, SMALL.latent_side, SMALL.latent_side)
    restored = model.restore(images)
    assert restored.image.shape == images.shape
    assert torch.equal(restored.indices, output.logits.argmax(2))
    assert not restored.image.requires_grad


def test_restoration_refuses_another_size() -> None:
    with pytest.raises(UserError, match=r"24x20.*16x16"):
        RestorationModel(SMALL_RESTORATION)(torch.zeros(1, 3, 20, 24))


def test_restoration_starts_from_the_earlier_stages(images: Tensor) -> None:
    codebook, hq, lq = VQGAN(SMALL), VQGAN(SMALL), VQGAN(SMALL)
    model = RestorationModel(SMALL_RESTORATION)
    model.load_upstream(codebook, hq, lq)
    assert torch.equal(model.hq_quant_conv(model.hq_encoder(images)), hq.encode(images))
    assert torch.equal(model.lq_quant_conv(model.lq_encoder(images)), lq.encode(images))
    z, _, indices = codebook.quantize(codebook.encode(images))
    torch.testing.assert_close(model.decode(indices), codebook.decode(z))
    targets = CodeTarget(codebook.encoder, codebook.quant_conv, codebook.quantize)(images)
    assert torch.equal(targets.indices, indices)
    torch.testing.assert_close(targets.quantized, z)


def test_a_step_runs_under_autocast(images: Tensor) -> None:
    model = RestorationModel(SMALL_RESTORATION)
    teacher = VQGAN(SMALL)
    target = CodeTarget(teacher.encoder, teacher.quant_conv, teacher.quantize)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        targets = target(images)
        logits, feature = model(images)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.indices.flatten()) + F.mse_loss(feature, targets.quantized)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.dtype == torch.float32
    assert all(tensor.grad.isfinite().all() for tensor in model.parameters() if tensor.grad is not None)


def test_only_what_stage_three_trains_is_trainable() -> None:
    model = RestorationModel(SMALL_RESTORATION)
    trained = {name.split(".")[0] for name, tensor in model.named_parameters() if tensor.requires_grad}
    assert trained == {"hq_encoder", "hq_quant_conv", "lq_encoder", "lq_quant_conv", "fusion", "predictor"}


def test_discriminator_scores_patches_and_starts_small() -> None:
    model = Discriminator(DiscriminatorConfig(channels=8))
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 1, 6, 6)
    start = model.state_dict()
    assert start["main.2.weight"].std().item() == pytest.approx(0.02, rel=0.1)
    assert start["main.3.weight"].mean().item() == pytest.approx(1, abs=0.05)


@needs_reference
def test_vqgan_equals_the_reference() -> None:
    golden = figures("golden_tiny.json")["codebook"]
    gt, _ = tiny_inputs()
    model = VQGAN(TINY)
    model.load_state_dict(part(weights("codebook_tiny"), "vqvae."))
    with torch.no_grad():
        output = model(gt)
    assert_indices(output.indices, golden["indices"], _negative_distances(output.z, model.quantize))
    assert_summary(output.z, golden["z"])
    assert_summary(output.reconstruction, golden["recon"])
    usage = codebook_usage(count_codes(output.indices, TINY.codes))
    assert usage.perplexity.item() == pytest.approx(golden["perplexity"], rel=LOSS_TOLERANCE)


@needs_reference
def test_discriminator_equals_the_reference() -> None:
    golden = figures("golden_tiny.json")["codebook"]["disc"]
    gt, _ = tiny_inputs()
    model = Discriminator(DiscriminatorConfig())
    model.load_state_dict(part(weights("codebook_tiny"), "loss.discriminator."))
    assert model(gt).mean().item() == pytest.approx(golden["logits_real"], rel=LOSS_TOLERANCE)


@needs_reference
def test_restoration_network_equals_the_reference() -> None:
    golden = figures("golden_tiny.json")["daefr"]
    gt, lq = tiny_inputs()
    model, target = _restoration(TINY_RESTORATION, weights("daefr_tiny"))
    targets = target(gt)
    with torch.no_grad():
        logits = model(lq).logits
        z = target.quant_conv(target.encoder(gt))
    assert_indices(targets.indices, golden["target_indices"], _negative_distances(z, model.codebook))
    assert_indices(logits.argmax(2), golden["predicted_indices"], logits.flatten(0, 1))
    assert_summary(logits, golden["logits"])
    assert_summary(model.restore(lq).image, golden["restored"])


@needs_reference
def test_full_size_restoration_equals_the_reference() -> None:
    golden = figures("golden_full.json")
    model, _ = _restoration(RestorationConfig(), weights("daefr_full"))
    weights.cache_clear()
    lq = _image("full_lq.png").to(memory_format=torch.channels_last)
    model = model.to(memory_format=torch.channels_last)
    with torch.no_grad():
        logits = model(lq).logits
        indices = logits.argmax(2)
        assert_indices(indices, golden["predicted_indices"], logits.flatten(0, 1))
        restored = model.decode(indices)
    # channels-last convolutions, several times faster here, add in another order than the reference did
    assert_summary(logits, golden["logits"], tolerance=1e-3)
    assert_summary(restored, golden["restored"], tolerance=1e-3)
    steps = (_to_8_bit(restored) - _to_8_bit(_image("full_restored.png"))).abs()
    assert steps.max() <= 1


def _millions(module: nn.Module) -> float:
    return sum(tensor.numel() for tensor in module.parameters()) / 1e6


def _restoration(config: RestorationConfig, stored: dict[str, Tensor]) -> tuple[RestorationModel, CodeTarget]:
    model = RestorationModel(config)
    model.load_state_dict({name: stored[released_name(name)] for name in model.state_dict()})
    target = CodeTarget(
        Encoder(config.autoencoder),
        nn.Conv2d(config.autoencoder.latent_channels, config.autoencoder.code_channels, kernel_size=1),
        model.codebook,
    )
    target.encoder.load_state_dict(part(stored, "vqvae.Fixed_encoder."))
    target.quant_conv.load_state_dict(part(stored, "vqvae.Fixed_quant_conv."))
    return model, target


def _negative_distances(z: Tensor, codebook: Quantizer) -> Tensor:
    rows = z.detach().permute(0, 2, 3, 1).flatten(0, 2)
    return -torch.cdist(rows, codebook.embedding.weight.detach()).square()


def _image(name: str) -> Tensor:
    """(1, 3, H, W), RGB in [-1, 1]."""
    bgr = cv2.imread(str(path(name)), cv2.IMREAD_COLOR)
    assert bgr is not None
    rgb = np.ascontiguousarray(bgr[:, :, ::-1].transpose(2, 0, 1), dtype=np.float32)
    return torch.from_numpy(rgb)[None] / 127.5 - 1


def _to_8_bit(image: Tensor) -> Tensor:
    return ((image.clamp(-1, 1) + 1) * 127.5).round()
