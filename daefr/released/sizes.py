"""The sizes of a released checkpoint's network, as far as the shapes of its tensors tell them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from daefr.errors import UserError
from daefr.settings.base import StageName
from daefr.settings.network import NetworkConfig

RELEASED = NetworkConfig()
ENDS = 2
"""Convolutions of the discriminator beside its strided and widening ones."""


@dataclass(frozen=True)
class Unseen:
    """Settings that leave no trace in the shapes; the defaults are those of the released network."""

    resolution: int | None = None
    """Side of the images. A restoration checkpoint tells it; for the others, None is that of the released network."""
    groups: int = RELEASED.autoencoder.groups
    heads: int = RELEASED.predictor.heads
    fusion_heads: int = RELEASED.predictor.fusion_heads


def infer_network(stage: StageName, tensors: Mapping[str, Tensor], unseen: Unseen, source: str) -> NetworkConfig:
    """Return the sizes of the network that `tensors`, by released name, belong to.

    Attention is known by level; its resolutions follow from the image's. What a stage has no tensors of, such as the
    predictor of a codebook, has the released sizes.

    Raises:
        UserError: when a tensor is missing that tells a size, or when the sizes make no network.

    """
    shapes = _Shapes(tensors, source)
    tree: dict[str, Any] = {
        "predictor": {"heads": unseen.heads, "fusion_heads": unseen.fusion_heads},
        "autoencoder": _autoencoder(stage, shapes, unseen),
    }
    if stage == "restoration":
        tree["predictor"] |= _predictor(shapes)
    else:
        tree["discriminator"] = _discriminator(shapes)
    try:
        return NetworkConfig.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(f"the sizes found in {source} make no network: {place}: {first['msg']}") from None


class _Shapes:
    """What the tensors of one file say, or a sentence on the one that is missing."""

    def __init__(self, tensors: Mapping[str, Tensor], source: str) -> None:
        self.tensors, self.source = tensors, source

    def size(self, name: str, axis: int) -> int:
        """Return one size of a tensor."""
        if name not in self.tensors:
            raise UserError(f"{self.source} has no tensor {name}, which tells a size of the network")
        shape = self.tensors[name].shape
        if not all(shape[: axis + 1]) or len(shape) <= axis:
            raise UserError(f"{self.source}: {name} has the shape {tuple(shape)}, which tells no size of the network")
        return shape[axis]

    def count(self, prefix: str) -> int:
        """Return how many different numbers follow `prefix`."""
        return len({name.removeprefix(prefix).split(".")[0] for name in self.tensors if name.startswith(prefix)})


def _autoencoder(stage: StageName, shapes: _Shapes, unseen: Unseen) -> dict[str, Any]:
    encoder, codebook = "vqvae.encoder.", "vqvae.Fixed_quantize." if stage == "restoration" else "vqvae.quantize."
    levels = shapes.count(f"{encoder}down.")
    resolution = _resolution(stage, shapes, unseen, levels)
    channels = shapes.size(f"{encoder}conv_in.weight", 0)
    return {
        "resolution": resolution,
        "channels": channels,
        "multipliers": [_multiplier(shapes, f"{encoder}down.{level}.", channels) for level in range(levels)],
        "blocks": shapes.count(f"{encoder}down.0.block."),
        "attention_resolutions": [
            resolution // 2**level for level in range(levels) if shapes.count(f"{encoder}down.{level}.attn.")
        ],
        "groups": unseen.groups,
        "latent_channels": shapes.size(f"{encoder}conv_out.weight", 0),
        "codes": shapes.size(f"{codebook}embedding.weight", 0),
        "code_channels": shapes.size(f"{codebook}embedding.weight", 1),
    }


def _multiplier(shapes: _Shapes, level: str, channels: int) -> int:
    width = shapes.size(f"{level}block.0.conv1.weight", 0)
    if width % channels:
        raise UserError(f"{shapes.source}: {level}* is {width} wide, which is no multiple of {channels}, the first")
    return width // channels


def _resolution(stage: StageName, shapes: _Shapes, unseen: Unseen, levels: int) -> int:
    if stage != "restoration":
        return RELEASED.autoencoder.resolution if unseen.resolution is None else unseen.resolution
    tokens = shapes.size("position_emb", 0)
    side = math.isqrt(tokens)
    resolution = side << max(levels - 1, 0)
    if side**2 != tokens:
        raise UserError(f"{shapes.source}: position_emb has {tokens} tokens, which make no square")
    if unseen.resolution not in (None, resolution):
        raise UserError(f"{shapes.source} restores {resolution}x{resolution} pixels, not {unseen.resolution}")
    return resolution


def _predictor(shapes: _Shapes) -> dict[str, Any]:
    return {
        "width": shapes.size("position_emb", 1),
        "layers": shapes.count("ft_layers."),
        "mlp": shapes.size("ft_layers.0.linear1.weight", 0),
    }


def _discriminator(shapes: _Shapes) -> dict[str, Any]:
    prefix = "loss.discriminator.main."
    filters = [name for name, tensor in shapes.tensors.items() if name.startswith(prefix) and tensor.dim() > 1]
    return {"channels": shapes.size(f"{prefix}0.weight", 0), "layers": len(filters) - ENDS}
