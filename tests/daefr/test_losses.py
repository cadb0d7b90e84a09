"""The loss terms on small inputs whose value is known; parity with the reference is in test_stages.py."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from daefr.errors import UserError
from daefr.losses.adversarial import (
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    gradient_ratio,
    with_gradient,
)
from daefr.losses.contrastive import contrastive_loss
from daefr.losses.perceptual import PerceptualLoss, find_vgg16


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_hinge_losses() -> None:
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 1.0])
    assert discriminator_loss(real, fake).item() == pytest.approx(0.5 * (0.25 + 1.0))
    assert generator_loss(fake).item() == pytest.approx(1.0)


def test_adaptive_weight_is_the_ratio_of_gradients_and_keeps_the_graph() -> None:
    layer = torch.ones(4, requires_grad=True)
    image = 5 * layer
    weight = adaptive_weight(image, torch.full((4,), 3.0), torch.full((4,), 2.0), layer)
    assert weight.item() == pytest.approx(1.5, rel=1e-3)
    assert not weight.requires_grad
    image.sum().backward()  # type: ignore[no-untyped-call]
    assert layer.grad is not None


def test_adaptive_weight_reduces_gradients_before_it_takes_norms() -> None:
    layer = torch.ones(4, requires_grad=True)
    opposite = torch.tensor([1.0, -1.0, 1.0, -1.0])
    # as if a second rank had found the opposite gradient in half of the elements
    ones, image = torch.ones(4), 1 * layer
    weight = adaptive_weight(image, 3 * ones, ones, layer, reduce=lambda gradient: gradient * (opposite > 0))
    assert weight.item() == pytest.approx(3, rel=1e-3)
    assert adaptive_weight(image, ones, 2 * ones, layer, reduce=torch.zeros_like).item() == 0


def test_a_loss_with_a_known_gradient_keeps_its_value() -> None:
    image = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = with_gradient(torch.tensor(7.0), 2 * image, torch.tensor([3.0, 5.0]))
    assert loss.item() == 7
    (10 * loss).backward()
    assert image.grad is not None
    assert image.grad.tolist() == [60, 100]


def test_gradient_ratio_is_clamped() -> None:
    assert gradient_ratio(torch.tensor([1e3]), torch.tensor([0.0])).item() == 1e4


def test_contrastive_loss_is_the_mean_of_both_cross_entropies(generator: torch.Generator) -> None:
    hq, lq = torch.randn(2, 2, 8, 3, 3, generator=generator)
    hq_rows = F.normalize(hq.permute(0, 2, 3, 1).reshape(-1, 8))
    lq_rows = F.normalize(lq.permute(0, 2, 3, 1).reshape(-1, 8))
    logits = hq_rows @ lq_rows.t() / 0.07
    diagonal = torch.arange(len(logits))
    expected = (F.cross_entropy(logits, diagonal) + F.cross_entropy(logits.t(), diagonal)) / 2
    torch.testing.assert_close(contrastive_loss(hq, lq).loss, expected)


def test_contrastive_loss_prefers_matching_places(generator: torch.Generator) -> None:
    z = torch.randn(2, 8, 3, 3, generator=generator)
    assert contrastive_loss(z, z).loss < contrastive_loss(z, z.flip(3)).loss


def test_contrastive_accuracy_is_the_share_of_positions_that_find_their_partner(generator: torch.Generator) -> None:
    z = torch.randn(2, 8, 4, 3, generator=generator).requires_grad_()
    assert contrastive_loss(z, 2 * z).accuracy == 1
    # the middle column of three keeps its place in a mirror image
    assert contrastive_loss(z, z.flip(3)).accuracy == pytest.approx(1 / 3)
    assert not contrastive_loss(z, z).accuracy.requires_grad


def test_contrastive_loss_pulls_both_sides_and_is_symmetric(generator: torch.Generator) -> None:
    hq, lq = torch.randn(2, 2, 8, 3, 3, generator=generator).requires_grad_().unbind()
    gradients = torch.autograd.grad(contrastive_loss(hq, lq).loss, [hq, lq])
    assert all(gradient.norm() > 0 for gradient in gradients)
    torch.testing.assert_close(contrastive_loss(hq, lq).loss, contrastive_loss(lq, hq).loss)


def test_contrastive_loss_is_float32_under_autocast(generator: torch.Generator) -> None:
    hq, lq = torch.randn(2, 2, 8, 3, 3, generator=generator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = contrastive_loss(hq, lq).loss
    assert torch.equal(inside, contrastive_loss(hq, lq).loss)


def test_perceptual_loss_is_zero_for_equal_images_and_has_finite_gradients(generator: torch.Generator) -> None:
    loss = PerceptualLoss()
    image = torch.zeros(2, 3, 32, 32, requires_grad=True)
    equal = loss(image, image.detach())
    assert equal.tolist() == [0, 0]
    loss(image, torch.rand(2, 3, 32, 32, generator=generator)).sum().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()


def test_perceptual_loss_stays_frozen_in_eval_mode() -> None:
    loss = PerceptualLoss()
    holder = torch.nn.Sequential(loss)
    holder.train()
    assert not any(module.training for module in loss.modules())
    assert not any(parameter.requires_grad for parameter in loss.parameters())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_perceptual_loss_loads_torchvisions_weights(tmp_path: Path, suffix: str) -> None:
    stored = _torchvision_weights()
    path = tmp_path / f"vgg16{suffix}"
    if suffix == ".pth":
        torch.save(stored, path)
    else:
        save_file(stored, path)
    loaded = PerceptualLoss.load(path).state_dict()
    assert torch.equal(loaded["net.slice1.0.weight"], stored["features.0.weight"])
    assert torch.equal(loaded["net.slice5.28.bias"], stored["features.28.bias"])
    assert (loaded["lin4.model.1.weight"] >= 0).all()


def test_perceptual_loss_names_the_missing_tensor(tmp_path: Path) -> None:
    stored = _torchvision_weights()
    del stored["features.28.bias"]
    torch.save(stored, tmp_path / "vgg16.pth")
    with pytest.raises(UserError, match=r"features\.28\.bias"):
        PerceptualLoss.load(tmp_path / "vgg16.pth")


def test_perceptual_loss_says_where_to_get_vgg16(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"vgg16-397923af\.pth.*perceptual\.weight=0"):
        PerceptualLoss.load(tmp_path / "nothing.pth")


def _torchvision_weights() -> dict[str, Tensor]:
    own = PerceptualLoss().net.state_dict()
    return {f"features.{name.partition('.')[2]}": tensor for name, tensor in own.items()}


def test_vgg16_is_downloaded_once_and_failures_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    asked = []

    def download(url: str, target: str, hash_prefix: str, progress: bool) -> None:
        asked.append((url, hash_prefix, progress))
        if len(asked) == 1:
            raise OSError("no way out")
        Path(target).write_bytes(b"weights")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(UserError, match=r"^.*no way out.*vgg16-397923af\.pth.*perceptual\.weight=0$"):
        find_vgg16(None)
    assert find_vgg16(None) == find_vgg16(None)
    assert asked[1:] == [("https://download.pytorch.org/models/vgg16-397923af.pth", "397923af", False)]
