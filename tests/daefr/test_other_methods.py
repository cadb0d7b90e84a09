"""Other methods with random weights in their released layout."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from spandrel.architectures.GFPGAN import GFPGAN
from spandrel.architectures.RestoreFormer import RestoreFormer
from torch import nn

from daefr.errors import UserError
from daefr.evaluation.other_methods import EXTRA_PACKAGE, OtherMethod
from tests.daefr import tiny

CPU = torch.device("cpu")


def _restoreformer() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"n_embed": 16, "embed_dim": 32, "ch": 32, "ch_mult": (1, 1, 1, 1, 1, 1), "z_channels": 32}
    return RestoreFormer(**sizes, num_res_blocks=1, attn_resolutions=(16,), resolution=512)


def _gfpgan() -> nn.Module:
    """The released sizes, which are not in the file; filled without the initialization that takes seconds."""
    with torch.device("meta"):
        network = GFPGAN(
            out_size=512,
            num_style_feat=512,
            channel_multiplier=2,
            fix_decoder=False,
            num_mlp=8,
            input_is_latent=True,
            different_w=True,
            narrow=1,
            sft_half=True,
        )
    generator = torch.Generator().manual_seed(0)
    for tensor in network.to_empty(device="cpu").state_dict().values():
        tensor.normal_(0, 0.03, generator=generator)
    return network


@pytest.fixture(scope="module")
def restoreformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "RestoreFormer.ckpt"
    # as its authors released it
    weights = {f"vqvae.{name}": each for name, each in _restoreformer().state_dict().items()}
    torch.save({"state_dict": weights | {"loss.discriminator.main.0.bias": torch.zeros(1)}}, path)
    return path


def test_restoreformer_restores_what_its_network_does_on_centered_images(restoreformer: Path) -> None:
    method = OtherMethod.load("restoreformer", restoreformer, CPU)
    face = tiny.face(np.random.default_rng(0), 512)
    (restored,) = method.restore([face])
    with torch.no_grad():
        seen = torch.from_numpy(face).permute(2, 0, 1)[None].float() / 127.5 - 1
        expected = ((_restoreformer().eval()(seen)[0][0] + 1) * 127.5).clamp(0, 255)
    difference = restored.image - expected.permute(1, 2, 0).numpy()
    assert np.abs(difference).max() <= 0.6, "more than rounding"
    assert restored.image.std() > 1
    assert restored.codes is None


def test_gfpgan_is_reproducible_in_any_batch(tmp_path: Path) -> None:
    torch.save({"params_ema": _gfpgan().state_dict()}, tmp_path / "GFPGANv1.4.pth")
    method = OtherMethod.load("gfpgan", tmp_path / "GFPGANv1.4.pth", CPU)
    faces = [tiny.face(np.random.default_rng(seed), 512) for seed in range(2)]
    together = [each.image for each in method.restore(faces)]
    (alone,) = method.restore(faces[1:])
    assert np.array_equal(alone.image, together[1])
    assert not np.array_equal(together[0], together[1])
    with pytest.raises(UserError, match=r"GFPGAN.*RestoreFormer"):
        OtherMethod.load("restoreformer", tmp_path / "GFPGANv1.4.pth", CPU)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("weights.pth", b"no weights"),
        ("weights.pth", {"params": {"other": torch.zeros(1)}}),
        ("weights.pth", {"params": eval}),
        ("weights.pth", None),
        ("weights.txt", b""),
    ],
)
def test_other_files_are_rejected_in_one_line(tmp_path: Path, name: str, content: object) -> None:
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        torch.save(content, tmp_path / name)
    with pytest.raises(UserError, match=rf"^.*{name}.*$"):
        OtherMethod.load("gfpgan", tmp_path / name, CPU)


@pytest.mark.skipif(importlib.util.find_spec(EXTRA_PACKAGE) is not None, reason=f"{EXTRA_PACKAGE} is installed")
def test_codeformer_names_the_package_that_it_requires(restoreformer: Path) -> None:
    with pytest.raises(UserError, match=EXTRA_PACKAGE):
        OtherMethod.load("codeformer", restoreformer, CPU)
