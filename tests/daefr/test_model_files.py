"""Model files as people have them: whatever wraps the tensors is opened, and nothing in a file is ever run."""

import argparse
import builtins
import collections
import functools
import io
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import tarfile
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from daefr.checkpoint import save_checkpoint
from daefr.errors import UserError
from daefr.locate import find_model
from daefr.released import read_tensors
from daefr.released.layout import PREFIXES, recognize
from tests.daefr import tiny

Weights = dict[str, Tensor]


@pytest.fixture
def weights() -> Weights:
    generator = torch.Generator().manual_seed(0)
    names = ("vqvae.Fixed_encoder.conv_in.weight", "vqvae.encoder.conv_in.bias", "position_emb", "feat_emb.weight")
    return {name: torch.randn(2, 3, generator=generator) for name in names}


class AttributeDict(dict[str, Any]):
    """As Lightning keeps its hyper-parameters."""


class EarlyStopping:
    """Any object with a state."""

    def __init__(self) -> None:
        self.best = np.float64(0.5)
        self.when = {pathlib.PurePosixPath("a"): {1, 2}}

    class Mode:
        """A class within a class."""


class Slotted:
    __slots__ = ("content",)

    def __init__(self) -> None:
        self.content = [np.arange(3), frozenset({1})]


def _inert() -> dict[str, Any]:
    namespace = argparse.Namespace(path=pathlib.Path("/data"), rate=np.float32(1e-4), kind=np.dtype("f4"))
    return {
        "hyper_parameters": AttributeDict(ddconfig=AttributeDict(ch_mult=[1, 2]), schema=namespace),
        "callbacks": {EarlyStopping: EarlyStopping().__dict__, "EarlyStopping{'mode': 'min'}": EarlyStopping()},
        "loops": [Slotted(), EarlyStopping.Mode(), collections.defaultdict(list, a=[1]), collections.Counter("ab")],
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-4}]}],
        "more": (np.int64(3), np.random.default_rng(0).bit_generator.state, functools.partial(print, 1), 2**80, 1j),
        "types": (torch.float16, torch.Size([1]), torch.device("cpu"), slice(1, 2), bytearray(b"a"), b"b"),
    }


WRAPPED: dict[str, Callable[[Weights], Any]] = {
    "bare": lambda weights: weights,
    "ordered": collections.OrderedDict,
    "state_dict": lambda weights: {"state_dict": weights},
    "params_ema": lambda weights: {
        "params": {name: -tensor for name, tensor in weights.items()},
        "params_ema": weights,
    },
    "params": lambda weights: {"params": weights},
    "in a list": lambda weights: [1, (weights, None)],
    "deep": lambda weights: {"ema": {"model": weights}, "model": {name: -tensor for name, tensor in weights.items()}},
    "with numbers": lambda weights: {"epoch": 3, "config": None, **weights},
    "module": lambda weights: {"params": {f"module.{name}": tensor for name, tensor in weights.items()}},
    "module inside": lambda weights: {name.replace("vqvae.", "vqvae.module."): weights[name] for name in weights},
    "compiled": lambda weights: {f"module._orig_mod.{name}": tensor for name, tensor in weights.items()},
    "prefix": lambda weights: {"state_dict": {f"model.net_g.{name}": tensor for name, tensor in weights.items()}},
    "parameters": lambda weights: {name: nn.Parameter(tensor) for name, tensor in weights.items()},
    "lightning": lambda weights: {**_inert(), "state_dict": weights},
    "attributes": lambda weights: AttributeDict(_inert(), model=AttributeDict(weights)),
    "object": lambda weights: argparse.Namespace(model=weights, **_inert()),
    "discriminator too": lambda weights: {
        "net_d": {f"layers.{number}": torch.ones(1) for number in range(20)},
        "net_g": weights,
    },
}


def _assert_equal(found: Weights, weights: Weights) -> None:
    assert found.keys() == weights.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, weights[name])
        assert not tensor.requires_grad


@pytest.mark.parametrize("form", ["zip", "protocol 4", "protocol 5", "legacy"])
@pytest.mark.parametrize("wrapper", WRAPPED)
def test_whatever_wraps_the_tensors_is_opened(wrapper: str, form: str, weights: Weights, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    protocol = int(form[-1]) if form.startswith("protocol") else 2
    torch.save(
        WRAPPED[wrapper](weights), path, pickle_protocol=protocol, _use_new_zipfile_serialization=form != "legacy"
    )
    _assert_equal(read_tensors(path, PREFIXES), weights)


def test_classes_that_are_not_installed(weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("gone.for.good")
    gone = type("Config", (dict,), {"__module__": module.__name__})
    module.Config = gone  # type: ignore[attr-defined]
    for name in ("gone", "gone.for", "gone.for.good"):
        monkeypatch.setitem(sys.modules, name, module)
    torch.save({"config": gone(a=gone()), gone: 1, "params": gone(weights)}, tmp_path / "model.pth")
    monkeypatch.undo()
    _assert_equal(read_tensors(tmp_path / "model.pth"), weights)


def test_safetensors_by_any_name(weights: Weights, tmp_path: Path) -> None:
    for name in ("model.safetensors", "model.ckpt"):
        safetensors.torch.save_file({f"module.{each}": tensor for each, tensor in weights.items()}, tmp_path / name)
        _assert_equal(read_tensors(tmp_path / name), weights)


def test_a_module_that_was_stored_as_an_object(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.Linear(4, 2)))
    torch.save({"model": network}, tmp_path / "model.pt")
    _assert_equal(read_tensors(tmp_path / "model.pt"), {k: v.detach() for k, v in network.state_dict().items()})


OTHERS = {
    "stylegan_decoder.style_mlp.1.weight": "GFP-GAN",
    "fuse_convs_dict.32.scale.0.weight": "CodeFormer",
    "decoder.mid.attn_1.norm1.weight": "RestoreFormer",
    "body.0.rdb1.conv1.weight": "Real-ESRGAN",
    "body.0.weight": "Real-ESRGAN",
    "generator.codebook.embedding.weight": "a checkpoint directory",
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_does_not_fit_is_called_what_it_is(name: str, tmp_path: Path) -> None:
    torch.save({"params_ema": {f"module.{name}": torch.ones(1)}}, tmp_path / "model.pth")
    with pytest.raises(UserError, match=rf"this looks like {OTHERS[name]}"):
        recognize(read_tensors(tmp_path / "model.pth", PREFIXES), None, "model.pth")


def test_a_restoreformer_is_no_codebook() -> None:
    names = ("vqvae.encoder.conv_in.weight", "loss.discriminator.main.0.weight", "loss.net_d_mouth.conv1.0.weight")
    with pytest.raises(UserError, match="this looks like RestoreFormer"):
        recognize({name: torch.ones(1) for name in names}, "hq_codebook", "RestoreFormer.ckpt")


class Reduced:
    """Pickled as a call of anything, with anything as its state."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments, state)

    def __call__(self) -> None:
        """Never; only what can be called can be stored as a call."""

    def __reduce__(self) -> Any:
        return self.reduced


ATTACKS: dict[str, Callable[[Path], Any]] = {
    "eval": lambda marker: Reduced(builtins.eval, f"open({str(marker)!r}, 'w')"),
    "exec": lambda marker: Reduced(builtins.exec, f"open({str(marker)!r}, 'w')"),
    "system": lambda marker: Reduced(os.system, f"touch {marker}"),
    "run": lambda marker: Reduced(subprocess.check_call, ["touch", str(marker)]),
    "copy": lambda marker: Reduced(shutil.copyfile, __file__, str(marker)),
    "touch": lambda marker: Reduced(Path.touch, marker),
    "write": lambda marker: Reduced(torch.save, {}, str(marker)),
    "getattr": lambda marker: Reduced(Reduced(getattr, marker, "touch")),
    "partial": lambda marker: Reduced(functools.partial(marker.touch)),
    "map": lambda marker: Reduced(list, Reduced(map, Path.touch, [marker])),
}


@pytest.mark.parametrize("form", ["zip", "protocol 4", "legacy", "pickle"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_no_code_is_run(attack: str, form: str, weights: Weights, tmp_path: Path) -> None:
    path, marker = tmp_path / "model.ckpt", tmp_path / "marker"
    content = {"state_dict": weights, "callbacks": ATTACKS[attack](marker)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(
            content,
            path,
            pickle_protocol=4 if form == "protocol 4" else 2,
            _use_new_zipfile_serialization=form != "legacy",
        )
    try:
        _assert_equal(read_tensors(path), weights)
    except UserError:
        assert attack in ("eval", "exec", "system", "run", "copy") or form == "pickle"
    assert not marker.exists()


@pytest.mark.parametrize("target", ["torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "any thing"])
def test_a_file_cannot_change_what_reads_it(target: str, weights: Weights, tmp_path: Path) -> None:
    """The state of a class, which pickle would set as its attributes."""
    torch.save(weights, tmp_path / "model.pth")
    with zipfile.ZipFile(tmp_path / "model.pth") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    module, name = target.split()
    poison = b"\x80\x02c%s\n%s\n(N}X\x0c\x00\x00\x00dump_patches\x88stb." % (module.encode(), name.encode())
    with zipfile.ZipFile(tmp_path / "bad.pth", "w") as archive:
        for entry, data in entries.items():
            archive.writestr(entry, poison if entry.endswith("data.pkl") else data)
    with pytest.raises(UserError, match="damaged"):
        read_tensors(tmp_path / "bad.pth")
    _assert_equal(read_tensors(tmp_path / "model.pth"), weights)


def test_files_without_end_are_read_to_an_end(tmp_path: Path, weights: Weights) -> None:
    cycle: dict[str, Any] = {"state_dict": weights}
    cycle["self"] = [cycle, cycle]
    layer: dict[str, Any] = {"_parameters": {}, "_modules": {}}
    for _ in range(60):  # as many paths as two to the sixtieth
        layer = {"_parameters": {}, "_modules": {"a": layer, "b": layer}}
    torch.save({**cycle, "model": layer}, tmp_path / "model.pth")
    _assert_equal(read_tensors(tmp_path / "model.pth"), weights)


def test_a_tar_file_is_not_unpacked(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "model.pth", "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(UserError, match="damaged"):
        read_tensors(tmp_path / "model.pth")


def test_a_folder_too_high_says_where_the_model_is(tmp_path: Path) -> None:
    checkpoint = tmp_path / "runs" / "demo" / "checkpoint"
    save_checkpoint(checkpoint, "restoration", tiny.NETWORK, {"a": torch.ones(1)})
    assert find_model(checkpoint) == find_model(checkpoint / "model.safetensors") == checkpoint
    for folder in (tmp_path, tmp_path / "runs", tmp_path / "runs" / "demo"):
        with pytest.raises(UserError, match=rf"did you mean {checkpoint}\?"):
            find_model(folder)
    (tmp_path / "weights").mkdir()
    released = tmp_path / "weights" / "DAEFR_model.ckpt"
    released.touch()
    with pytest.raises(UserError, match=rf"did you mean {released}\?"):
        find_model(tmp_path / "weights")
    with pytest.raises(UserError, match=f"{checkpoint} or {released}"):
        find_model(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no model; a model is"):
        find_model(tmp_path / "empty")
