"""From a released checkpoint to a checkpoint directory and back, bit by bit."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from daefr.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from daefr.errors import UserError
from daefr.files import atomic_path, new_folder
from daefr.released.layout import PREFIXES, ReleasedLayout, constants, layout_of, recognize
from daefr.released.reading import read_tensors
from daefr.released.sizes import Unseen, infer_network
from daefr.settings.base import StageName
from daefr.settings.network import NetworkConfig
from daefr.settings.training import RestorationTraining
from daefr.stages.build import build_stage
from daefr.stages.components import without_components
from daefr.stages.restoration import RestorationStage


@dataclass(frozen=True)
class Exported:
    """What became of an export."""

    tensors: int
    left_out: list[str]
    """Released names of the tensors that the checkpoint does not have."""


def import_released(
    source: Path, target: Path, kind: StageName | None = None, unseen: Unseen | None = None
) -> Checkpoint:
    """Turn a released checkpoint into a checkpoint directory, which appears whole or not at all.

    Tensors that have no place in our network, or another shape in it, are kept beside the others as they are, so that
    `export_released` gives them all back.

    Args:
        source: HQ or LQ codebook, association or restoration, released or of `export_released`, whatever wraps it.
        target: the directory, which must not exist.
        kind: the stage; only needed for a codebook, as those of HQ and LQ have the same keys.
        unseen: what the tensors' shapes do not tell.

    Raises:
        UserError: when `target` exists or cannot be written, or `source` is not such a checkpoint.

    """
    _refuse_existing(target)
    tensors, network, layout = _open(source, kind, unseen or Unseen())
    tensors = _unshared(tensors)
    with _appearing(target, folder=True) as temporary:
        save_checkpoint(
            temporary,
            layout.stage,
            network,
            _own(tensors, layout),
            released={name: tensor for name, tensor in tensors.items() if _is_not_ours(layout, name, tensor)},
        )
    return Checkpoint(target, layout.stage, network)


def check_released(source: Path, stage: StageName) -> None:
    """Raise `UserError` unless a file holds the names of a released checkpoint of that stage."""
    recognize(read_tensors(source, PREFIXES), stage, str(source))


def open_initial(source: Path, stage: StageName, network: NetworkConfig, scratch: Path) -> Checkpoint:
    """Open what a stage of that network starts from: a checkpoint directory, or a released file of the stage.

    A file is converted below the folder `scratch`, where the checkpoint then is. Raises `UserError` for anything else.
    """
    if not source.is_file():
        return load_checkpoint(source)
    predictor = network.predictor
    sizes = network.autoencoder
    unseen = Unseen(sizes.resolution, sizes.groups, predictor.heads, predictor.fusion_heads)
    return import_released(source, scratch / stage, stage, unseen)


def read_restoration(source: Path, unseen: Unseen | None = None) -> RestorationStage:
    """Build the stage of a released restoration checkpoint, to restore with, without storing it as a directory.

    Raises `UserError` when `source` is no such file.
    """
    tensors, network, layout = _open(source, "restoration", unseen or Unseen())
    stage = build_stage(layout.stage, network, RestorationTraining(steps=1))
    stage.load_weights(_own(tensors, layout), str(source))
    assert isinstance(stage, RestorationStage)  # noqa: S101  # by its name
    return stage


def export_released(directory: Path, target: Path, like: Path | None = None) -> Exported:
    """Turn a checkpoint directory into a file in the released layout, which appears whole or not at all.

    An imported checkpoint gives back every tensor as it was. One that was trained here lacks the weights of LPIPS, and
    a restoration the codebooks that nothing reads: they are left out, or taken from a released checkpoint. The
    discriminators of facial components, which the released layout has no place for, stay behind.

    Args:
        directory: the checkpoint.
        target: the `.ckpt` file, which must not exist.
        like: a released checkpoint of the same kind and sizes, for the tensors that `directory` lacks.

    Raises:
        UserError: when `target` exists or cannot be written, `directory` is no checkpoint, or `like` does not fit.

    """
    _refuse_existing(target)
    checkpoint = load_checkpoint(directory)
    layout = layout_of(checkpoint.stage, checkpoint.network)
    weights = without_components(checkpoint.tensors())
    if weights.keys() != set(layout.own.values()):
        raise UserError(f"{directory} does not hold the tensors that its {layout.stage} should have")
    extra = constants(layout.stage) | checkpoint.released()
    if like is not None:
        extra = _taken_from(like, layout) | extra
    tensors = {name: weights[own] for name, own in layout.own.items()} | extra
    with _appearing(target, folder=False) as temporary, temporary.open("wb") as stream:
        torch.save({"state_dict": tensors}, stream)
    return Exported(len(tensors), [name for name in layout.forms if name not in tensors])


def _open(
    source: Path, kind: StageName | None, unseen: Unseen
) -> tuple[dict[str, Tensor], NetworkConfig, ReleasedLayout]:
    """Read a released checkpoint, by released name; every tensor is checked to be there and to fit."""
    tensors = read_tensors(source, PREFIXES)
    stage = recognize(tensors, kind, str(source))
    network = infer_network(stage, tensors, unseen, str(source))
    layout = layout_of(stage, network)
    layout.check(tensors, str(source), trained_here=True)
    return tensors, network, layout


def _own(tensors: Mapping[str, Tensor], layout: ReleasedLayout) -> dict[str, Tensor]:
    return {own: tensors[name].reshape(layout.forms[name].shape) for name, own in layout.own.items()}


def _is_not_ours(layout: ReleasedLayout, name: str, tensor: Tensor) -> bool:
    return name not in layout.own or tensor.shape != layout.forms[name].shape


def _taken_from(like: Path, layout: ReleasedLayout) -> dict[str, Tensor]:
    tensors = read_tensors(like, PREFIXES)
    layout.check(tensors, str(like))
    return {name: tensors[name] for name in layout.extra}


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target):
        raise UserError(f"{target} exists already: choose another name, or remove it first")


@contextmanager
def _appearing(target: Path, *, folder: bool) -> Iterator[Path]:
    """Yield a file or a folder that becomes `target` in the end, unless something else has by then.

    After a failure nothing is left.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(target) if folder else atomic_path(target, new=True) as temporary:
            yield temporary
    except FileExistsError:
        _refuse_existing(target)
        raise UserError(f"{target} cannot be written: a file is where one of its folders has to be") from None
    except (OSError, SafetensorError, RuntimeError) as error:  # a full disk: safetensors' error, or PyTorch's
        reason = str(error).partition("\n")[0]
        raise UserError(f"{target} cannot be written: {reason}") from None


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy every tensor that shares its memory with one before it, which safetensors would not store."""
    seen: set[int] = set()
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        address = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return result
