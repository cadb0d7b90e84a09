"""Golden figures of the public reference implementation, which lie beside the project, not in it."""

import functools
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from daefr.settings.network import AutoencoderConfig, PredictorConfig, RestorationConfig

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "reference"
LOSS_TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 1e-3
TINY = AutoencoderConfig(resolution=64, channels=32, multipliers=(1, 2, 4), blocks=1)
TINY_RESTORATION = RestorationConfig(autoencoder=TINY, predictor=PredictorConfig())

needs_reference = pytest.mark.skipif(
    not FOLDER.is_dir(), reason=f"the golden figures of the reference implementation are not at {FOLDER}"
)


def path(name: str) -> Path:
    """A file of the golden figures."""
    return FOLDER / name


@functools.cache
def figures(name: str) -> Any:
    """The content of a JSON file of the golden figures."""
    return json.loads(path(name).read_text())


@functools.cache
def weights(layout: str) -> dict[str, Tensor]:
    """Every tensor of a checkpoint, e.g. ``codebook_tiny``, filled as when the figures were measured."""
    spec = importlib.util.spec_from_file_location("reference_weights", path("weights.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    arrays: dict[str, NDArray[Any]] = module.state_dict(
        figures(f"state_dict_{layout}.json"), figures("golden_tiny.json")["seed"]
    )
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def part(stored: Mapping[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for prefix in prefixes
        for name, tensor in stored.items()
        if name.startswith(prefix)
    }


def released_name(name: str) -> str:
    """The name that the released restoration checkpoint has for a tensor of `RestorationModel`."""
    for own, released in (
        ("hq_encoder.", "vqvae.HQ_encoder."),
        ("hq_quant_conv.", "vqvae.HQ_quant_conv."),
        ("lq_encoder.", "vqvae.encoder."),
        ("lq_quant_conv.", "vqvae.quant_conv."),
        ("fusion.", "cross_attention."),
        ("predictor.position_emb", "position_emb"),
        ("predictor.feat_emb.", "feat_emb."),
        ("predictor.layers.", "ft_layers."),
        ("predictor.norm.", "idx_pred_layer.0."),
        ("predictor.head.", "idx_pred_layer.1."),
        ("codebook.", "vqvae.Fixed_quantize."),
        ("post_quant_conv.", "vqvae.post_quant_conv."),
        ("decoder.", "vqvae.decoder."),
    ):
        if name.startswith(own):
            return released + name.removeprefix(own)
    raise AssertionError(name)


def tiny_inputs() -> tuple[Tensor, Tensor]:
    """`gt` and `lq`, (2, 3, 64, 64) in [-1, 1]."""
    with np.load(path("tiny_inputs.npz")) as arrays:
        return torch.from_numpy(arrays["gt"]), torch.from_numpy(arrays["lq"])


def assert_summary(tensor: Tensor, golden: Mapping[str, Any], tolerance: float = LOSS_TOLERANCE) -> None:
    """Check mean, deviation and 24 samples of a tensor; `tolerance` is relative to its deviation."""
    flat = tensor.detach().flatten()
    places = torch.from_numpy(np.linspace(0, len(flat) - 1, len(golden["sample"])).astype(np.int64))
    allowed = tolerance * golden["std"]
    assert flat.mean().item() == pytest.approx(golden["mean"], abs=allowed)
    assert flat.std().item() == pytest.approx(golden["std"], abs=allowed)
    assert flat[places].tolist() == pytest.approx(golden["sample"], abs=allowed)


def assert_gradient_norms(gradients: Mapping[str, Tensor | None], golden: Mapping[str, float]) -> None:
    """Check the norm of each gradient that the figures name."""
    measured = {}
    for name in golden:
        gradient = gradients[name]
        assert gradient is not None, name
        measured[name] = gradient.norm().item()
    assert measured == pytest.approx(dict(golden), rel=GRADIENT_TOLERANCE)


def assert_indices(indices: Tensor, golden: Sequence[int], scores: Tensor, closer_than: float = 1e-4) -> None:
    """Check indices against the figures, but where the best two of `scores` (rows, choices) nearly tie."""
    best = scores.topk(2, dim=1, sorted=True).values
    clear = (best[:, 0] - best[:, 1]).abs() > closer_than
    expected = torch.tensor(golden)
    assert torch.equal(indices.flatten()[clear], expected[clear])
