"""Released checkpoints: in, out again bit by bit, used by the stages, and every kind of file that must be refused."""

import os
import pickle
import shutil
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from daefr.__main__ import main
from daefr.checkpoint import load_checkpoint, save_checkpoint
from daefr.errors import UserError
from daefr.images import decode_image
from daefr.released import Unseen, export_released, import_released
from daefr.released.layout import layout_of
from daefr.settings.base import StageName
from daefr.settings.network import AutoencoderConfig, DiscriminatorConfig, NetworkConfig, PredictorConfig
from daefr.settings.training import AutoencoderTraining, PerceptualConfig, RestorationTraining
from daefr.stages import STAGES, RestorationStage, build_stage, init_from_upstream, stage_from_checkpoint
from tests.daefr.reference import TINY, assert_summary, figures, needs_reference, tiny_inputs, weights

SMALL = NetworkConfig(
    autoencoder=AutoencoderConfig(
        resolution=16,
        channels=8,
        multipliers=(1, 2),
        blocks=1,
        attention_resolutions=(8,),
        groups=4,
        latent_channels=12,
        codes=20,
        code_channels=8,
    ),
    predictor=PredictorConfig(width=16, layers=2, heads=2, mlp=24, fusion_heads=2),
    discriminator=DiscriminatorConfig(channels=8, layers=2),
)
SMALL_UNSEEN = Unseen(resolution=16, groups=4, heads=2, fusion_heads=2)
SMALL_OPTIONS = ["--groups", "4", "--heads", "2", "--fusion-heads", "2"]
LAYOUTS = {
    "hq_codebook": "codebook",
    "lq_codebook": "codebook",
    "association": "association",
    "restoration": "daefr",
}
A_TENSOR = "vqvae.quant_conv.bias"


def _trained(folder: Path, stage: StageName, seed: int = 0) -> Path:
    """A checkpoint directory as training leaves it."""
    training = (
        RestorationTraining(steps=1)
        if stage == "restoration"
        else AutoencoderTraining(steps=1, perceptual=PerceptualConfig(weight=0))
    )
    save_checkpoint(folder / stage, stage, SMALL, build_stage(stage, SMALL, training, seed).weights())
    return folder / stage


def _state(path: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return tensors


def _released(folder: Path, stage: StageName) -> dict[str, Tensor]:
    """Every tensor of a released checkpoint, small."""
    path = folder / f"{stage}.own.ckpt"
    missing = export_released(_trained(folder, stage), path).left_out
    forms = layout_of(stage, SMALL).forms
    generator = torch.Generator().manual_seed(1)
    return _state(path) | {name: torch.randn(forms[name].shape, generator=generator) for name in missing}


def _kind(stage: StageName) -> StageName | None:
    return stage if "codebook" in stage else None


def _assert_same_bits(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        other = theirs[name]
        assert (tensor.shape, tensor.dtype) == (other.shape, other.dtype), name
        assert torch.equal(tensor.detach().reshape(-1).view(torch.uint8), other.detach().reshape(-1).view(torch.uint8))


@pytest.fixture(autouse=True)
def _leave_no_weights_behind(tmp_path: Path) -> Iterator[None]:
    yield
    shutil.rmtree(tmp_path)


@pytest.fixture
def restoration(tmp_path: Path) -> dict[str, Tensor]:
    """A small released restoration checkpoint, the only kind without the weights of VGG16."""
    return _released(tmp_path, "restoration")


@pytest.mark.parametrize("stage", STAGES)
def test_import_and_export_give_back_every_bit(stage: StageName, tmp_path: Path) -> None:
    source = tmp_path / "released.ckpt"
    released = _released(tmp_path, stage)
    torch.save({"state_dict": released}, source)
    import_released(source, tmp_path / "imported", _kind(stage), SMALL_UNSEEN)

    imported = load_checkpoint(tmp_path / "imported")
    assert imported.stage == stage
    # of what it has no tensors, the sizes are the released ones
    absent = (
        {"discriminator": DiscriminatorConfig()}
        if stage == "restoration"
        else {"predictor": PredictorConfig(heads=2, fusion_heads=2)}
    )
    assert imported.network == SMALL.model_copy(update=absent)
    _assert_same_bits(imported.tensors(), load_checkpoint(tmp_path / stage).tensors())
    stage_from_checkpoint(imported)

    exported = export_released(tmp_path / "imported", tmp_path / "exported.ckpt")
    assert (exported.tensors, exported.left_out) == (len(released), [])
    _assert_same_bits(_state(tmp_path / "exported.ckpt"), released)


def test_later_stages_start_from_imported_ones(tmp_path: Path) -> None:
    imported = {}
    for stage in STAGES[:3]:
        source = tmp_path / f"{stage}.ckpt"
        torch.save({"state_dict": _released(tmp_path, stage)}, source)
        import_released(source, tmp_path / f"{stage}.imported", _kind(stage), SMALL_UNSEEN)
        imported[stage] = load_checkpoint(tmp_path / f"{stage}.imported")

    association = build_stage(
        "association", SMALL, AutoencoderTraining(steps=1, perceptual=PerceptualConfig(weight=0)), seed=5
    )
    init_from_upstream(association, {name: imported[name] for name in ("hq_codebook", "lq_codebook")})
    start = association.weights()
    for name, tensor in (imported["hq_codebook"].tensors() | imported["lq_codebook"].tensors()).items():
        assert torch.equal(start[name], tensor)

    restoration = build_stage("restoration", SMALL, RestorationTraining(steps=1), seed=5)
    init_from_upstream(restoration, {name: imported[name] for name in ("hq_codebook", "association")})
    assert torch.equal(
        restoration.weights()["generator.lq_encoder.conv_in.weight"],
        imported["association"].tensors()["generator.lq.encoder.conv_in.weight"],
    )


def test_import_copes_with_unusual_storage(tmp_path: Path, restoration: dict[str, Tensor]) -> None:
    name = "vqvae.encoder.conv_in.weight"
    restoration |= {
        A_TENSOR: torch.tensor([float("nan"), -0.0, 1, 2, 3, 4, 5, 6]).half(),
        name: restoration[name].to(memory_format=torch.channels_last),
        # one storage, several names
        "vqvae.HQ_quantize.embedding.weight": restoration["vqvae.Fixed_quantize.embedding.weight"],
        "feat_emb.bias": restoration["idx_pred_layer.0.bias"],
        "position_emb": nn.Parameter(restoration["position_emb"]),
    }
    torch.save({"state_dict": OrderedDict(restoration)}, tmp_path / "odd.ckpt")
    import_released(tmp_path / "odd.ckpt", tmp_path / "odd", unseen=SMALL_UNSEEN)
    stage_from_checkpoint(load_checkpoint(tmp_path / "odd"))
    export_released(tmp_path / "odd", tmp_path / "back.ckpt")
    _assert_same_bits(_state(tmp_path / "back.ckpt"), restoration)


def test_a_vector_of_one_number_may_stand_for_a_scalar(tmp_path: Path) -> None:
    released = _released(tmp_path, "association")
    counter = "loss_LQ.discriminator.main.3.num_batches_tracked"
    released |= {name: released[name].reshape(1) for name in (counter, "logit_scale")}
    torch.save({"state_dict": released}, tmp_path / "a.ckpt")
    import_released(tmp_path / "a.ckpt", tmp_path / "a", unseen=SMALL_UNSEEN)
    stage_from_checkpoint(load_checkpoint(tmp_path / "a"))
    export_released(tmp_path / "a", tmp_path / "back.ckpt")
    _assert_same_bits(_state(tmp_path / "back.ckpt"), released)


def test_entries_of_lightning_beside_the_weights(
    tmp_path: Path, restoration: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    callback = type("ModelCheckpoint", (), {"__module__": module.__name__})
    module.ModelCheckpoint = callback  # type: ignore[attr-defined]
    packages = {name: types.ModuleType(name) for name in ("pytorch_lightning", "pytorch_lightning.callbacks")}
    for name, package in (packages | {module.__name__: module}).items():
        monkeypatch.setitem(sys.modules, name, package)
    extras: dict[str, Any] = {
        "epoch": 3,
        "global_step": 12,
        "callbacks": {callback: {"best_model_score": torch.tensor(1.0), "best_model_path": "x.ckpt"}},
        "optimizer_states": [{"state": {0: {"step": 12, "exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-4}]}],
        "hyper_parameters": {"ddconfig": {"ch_mult": [1, 2], "dropout": 0.0, "double_z": False, "z": None}},
    }
    torch.save({**extras, "state_dict": restoration}, tmp_path / "lightning.ckpt")
    monkeypatch.undo()
    import_released(tmp_path / "lightning.ckpt", tmp_path / "out", unseen=SMALL_UNSEEN)
    export_released(tmp_path / "out", tmp_path / "back.ckpt")
    _assert_same_bits(_state(tmp_path / "back.ckpt"), restoration)


def test_files_from_before_pytorch_1_6(tmp_path: Path, restoration: dict[str, Tensor]) -> None:
    torch.save({"state_dict": restoration}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    import_released(tmp_path / "old.ckpt", tmp_path / "out", unseen=SMALL_UNSEEN)
    export_released(tmp_path / "out", tmp_path / "back.ckpt")
    _assert_same_bits(_state(tmp_path / "back.ckpt"), restoration)


def test_what_training_does_not_have_is_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = _trained(tmp_path, "association")
    assert main(["export", str(trained), str(tmp_path / "a.ckpt")]) == 0
    said = capsys.readouterr().out
    assert "such as loss.perceptual_loss.scaling_layer.shift: --like CKPT takes them from a released file" in said
    exported = _state(tmp_path / "a.ckpt")
    assert not any("perceptual" in name for name in exported)
    assert exported["logit_scale"].item() == pytest.approx(2.6593, abs=1e-4)
    import_released(tmp_path / "a.ckpt", tmp_path / "out", unseen=SMALL_UNSEEN)
    _assert_same_bits(load_checkpoint(tmp_path / "out").tensors(), load_checkpoint(trained).tensors())


def test_half_of_what_training_does_not_have_is_a_damaged_file(
    tmp_path: Path, restoration: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    unused = "vqvae.LQ_quantize.embedding.weight"
    torch.save({"state_dict": {name: restoration[name] for name in restoration if name != unused}}, tmp_path / "a.ckpt")
    assert f"1 missing ({unused})" in _refusal(tmp_path, tmp_path / "a.ckpt", capsys, *SMALL_OPTIONS)


def test_like_fills_in_what_training_does_not_have(tmp_path: Path, restoration: dict[str, Tensor]) -> None:
    torch.save({"state_dict": restoration}, tmp_path / "like.ckpt")
    trained = _trained(tmp_path / "other", "restoration", seed=7)
    assert export_released(trained, tmp_path / "full.ckpt", like=tmp_path / "like.ckpt").left_out == []
    full = _state(tmp_path / "full.ckpt")
    unused = "vqvae.LQ_quantize.embedding.weight"
    assert torch.equal(full[unused], restoration[unused])
    assert not torch.equal(full["vqvae.encoder.conv_in.weight"], restoration["vqvae.encoder.conv_in.weight"])
    import_released(tmp_path / "full.ckpt", tmp_path / "out", unseen=SMALL_UNSEEN)
    _assert_same_bits(load_checkpoint(tmp_path / "out").tensors(), load_checkpoint(trained).tensors())


def test_like_must_be_of_the_same_kind(tmp_path: Path, restoration: dict[str, Tensor]) -> None:
    torch.save({"state_dict": restoration}, tmp_path / "like.ckpt")
    with pytest.raises(UserError, match=r"like.ckpt is no released checkpoint of hq_codebook: .* missing"):
        export_released(_trained(tmp_path, "hq_codebook"), tmp_path / "a.ckpt", like=tmp_path / "like.ckpt")
    assert not (tmp_path / "a.ckpt").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({A_TENSOR: None, "feat_emb.bias": None}, f"2 missing ({A_TENSOR}, feat_emb.bias)"),
        ({"extra.weight": torch.ones(2)}, "1 unknown (extra.weight)"),
        ({A_TENSOR: torch.ones(5)}, f"1 of another shape or type ({A_TENSOR} is float32 (5,), not float32 (8,))"),
        ({A_TENSOR: torch.ones(8).long()}, f"({A_TENSOR} is int64 (8,), not float32 (8,))"),
        ({"position_emb": None}, "has no tensor position_emb, which tells a size"),
        ({"position_emb": torch.ones(60, 16)}, "position_emb has 60 tokens, which make no square"),
        ({"position_emb": torch.tensor(1.0)}, "position_emb has the shape (), which tells no size"),
        ({"vqvae.encoder.conv_in.weight": torch.ones(0, 3, 3, 3)}, "(0, 3, 3, 3), which tells no size"),
        ({"vqvae.encoder.conv_in.weight": torch.ones(7, 3, 3, 3)}, "is 8 wide, which is no multiple of 7"),
        ({A_TENSOR: torch.ones(1).expand(10**12)}, f"'{A_TENSOR}' in it is no plain tensor"),
        ({A_TENSOR: torch.ones(8).to_sparse()}, f"1 missing ({A_TENSOR})"),
        ({A_TENSOR: 3}, f"1 missing ({A_TENSOR})"),
        ({"a\nb": torch.ones(1)}, r"'a\nb' in it is no plain tensor"),
    ],
)
def test_import_refuses_tensors(
    change: dict[str, Any],
    sentence: str,
    tmp_path: Path,
    restoration: dict[str, Tensor],
    capsys: pytest.CaptureFixture[str],
) -> None:
    changed = {name: tensor for name, tensor in (restoration | change).items() if tensor is not None}
    torch.save({"state_dict": changed}, tmp_path / "bad.ckpt")
    assert sentence in _refusal(tmp_path, tmp_path / "bad.ckpt", capsys, *SMALL_OPTIONS)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--resolution", "32"], "restores 16x16 pixels, not 32"),
        (["--kind", "association"], "is a checkpoint of restoration, not of association"),
        (["--groups", "3"], "make no network: autoencoder: Value error, groups is 3"),
        (["--heads", "0"], "make no network: predictor.heads: Input should be greater than 0"),
    ],
)
def test_import_refuses_options_that_do_not_fit(
    options: list[str],
    sentence: str,
    tmp_path: Path,
    restoration: dict[str, Tensor],
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.save({"state_dict": restoration}, tmp_path / "fine.ckpt")
    assert sentence in _refusal(tmp_path, tmp_path / "fine.ckpt", capsys, *SMALL_OPTIONS, *options)


def test_import_asks_which_codebook_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": _released(tmp_path, "lq_codebook")}, tmp_path / "codebook.ckpt")
    sentence = _refusal(tmp_path, tmp_path / "codebook.ckpt", capsys)
    assert "is a codebook: say of which images, with --kind hq_codebook or --kind lq_codebook" in sentence
    arguments = ["import", str(tmp_path / "codebook.ckpt"), str(tmp_path / "out"), "--kind", "lq_codebook"]
    assert main([*arguments, "--resolution", "16", "--groups", "4"]) == 0
    assert "imported lq_codebook at 16x16 pixels" in capsys.readouterr().out


DAMAGED = "is no checkpoint of PyTorch or safetensors, or it is damaged or cut short"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("absent", "cannot be read: No such file"),
        ("folder", "cannot be read: Is a directory"),
        ("empty", DAMAGED),
        ("text", DAMAGED),
        ("png", DAMAGED),
        ("truncated", DAMAGED),
        ("flipped", DAMAGED),
        ("compressed", DAMAGED),
        ("list", "holds no model"),
        ("other_model", "is no released DAEFR checkpoint: its 2 tensors are called weight, bias"),
        ("module", "is no released DAEFR checkpoint: its 2 tensors are called weight, bias"),
        ("torchscript", "it asks for 'TorchScript'"),
    ],
)
def test_import_refuses_foreign_and_damaged_files(
    name: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"{name}.ckpt"
    _make_foreign(name, path)
    assert sentence in _refusal(tmp_path, path, capsys)


class _Malice:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "pickle4"])
def test_import_runs_no_code(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, marker = tmp_path / "malice.ckpt", tmp_path / "marker"
    content = {"state_dict": {A_TENSOR: torch.ones(3)}, "callbacks": _Malice(marker)}
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps(content["callbacks"], protocol=4 if form == "pickle4" else 2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    sentence = _refusal(tmp_path, path, capsys)
    assert "it asks for 'posix.system'" in sentence
    assert not marker.exists()


def test_nothing_is_overwritten(
    tmp_path: Path, restoration: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": restoration}, tmp_path / "fine.ckpt")
    assert main(["import", str(tmp_path / "fine.ckpt"), str(tmp_path / "restoration")]) == 2
    assert main(["export", str(tmp_path / "restoration"), str(tmp_path / "fine.ckpt")]) == 2
    assert capsys.readouterr().err.count("exists already: choose another name") == 2
    _assert_same_bits(_state(tmp_path / "fine.ckpt"), restoration)


@pytest.mark.parametrize("command", ["import", "export"])
def test_a_target_that_cannot_be_written(
    command: str, tmp_path: Path, restoration: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": restoration}, tmp_path / "fine.ckpt")
    source, options = (tmp_path / "fine.ckpt", SMALL_OPTIONS) if command == "import" else (tmp_path / "restoration", [])
    assert main([command, str(source), str(tmp_path / "fine.ckpt" / "out"), *options]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_export_needs_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path), str(tmp_path / "a.ckpt")]) == 2
    assert "is not a checkpoint directory" in capsys.readouterr().err


@needs_reference
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("size", ["tiny", "full"])
def test_the_layout_is_the_released_one(stage: StageName, size: str) -> None:
    network = NetworkConfig(autoencoder=TINY if size == "tiny" else AutoencoderConfig())
    forms = layout_of(stage, network).forms
    expected = figures(f"state_dict_{LAYOUTS[stage]}_{size}.json")
    assert {name: list(form.shape) for name, form in forms.items()} == expected


@needs_reference
@pytest.mark.parametrize("stage", ["lq_codebook", "association", "restoration"])
def test_reference_weights_go_in_and_out(stage: StageName, tmp_path: Path) -> None:
    released = weights(f"{LAYOUTS[stage]}_tiny")
    torch.save({"state_dict": released}, tmp_path / "released.ckpt")
    imported = import_released(tmp_path / "released.ckpt", tmp_path / "out", _kind(stage), Unseen(TINY.resolution))
    assert imported.network == NetworkConfig(autoencoder=TINY)
    export_released(tmp_path / "out", tmp_path / "back.ckpt")
    _assert_same_bits(_state(tmp_path / "back.ckpt"), released)


@needs_reference
def test_an_imported_checkpoint_restores_as_the_reference_does(tmp_path: Path) -> None:
    torch.save({"state_dict": weights("daefr_tiny")}, tmp_path / "released.ckpt")
    model = tmp_path / "model"
    assert main(["import", str(tmp_path / "released.ckpt"), str(model)]) == 0
    stage = stage_from_checkpoint(load_checkpoint(model))
    assert isinstance(stage, RestorationStage)
    _, lq = tiny_inputs()
    assert_summary(stage.generator.restore(lq).image, figures("golden_tiny.json")["daefr"]["restored"])

    face = ((lq[0].flip(0).permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8).numpy()
    assert cv2.imwrite(str(tmp_path / "face.png"), face)
    places = [str(tmp_path / "face.png"), str(tmp_path / "restored")]
    results = []
    for either in (model, tmp_path / "released.ckpt"):
        assert main(["restore", *places, "--model", str(either), "--aligned", "--device", "cpu"]) == 0
        results.append(decode_image((tmp_path / "restored" / "face.png").read_bytes()))
    assert results[0].shape == (64, 64, 3)
    assert np.array_equal(*results), "the imported checkpoint and the file itself"


def _refusal(folder: Path, source: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """The one line with which an import is refused; nothing may be left of it."""
    before = set(folder.rglob("*"))
    assert main(["import", str(source), str(folder / "out"), *options]) == 2
    assert set(folder.rglob("*")) == before
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def _make_foreign(name: str, path: Path) -> None:
    stored = {"state_dict": {A_TENSOR: torch.arange(1000.0)}}
    objects: dict[str, Any] = {
        "list": [1, 2],
        "other_model": {"state_dict": nn.Linear(2, 3).state_dict()},
        "module": nn.Linear(2, 3),
    }
    if name in objects:
        torch.save(objects[name], path)
    elif name == "folder":
        path.mkdir()
    elif name == "png":
        cv2.imwrite(str(path.with_suffix(".png")), torch.zeros(8, 8, 3, dtype=torch.uint8).numpy())
        path.with_suffix(".png").rename(path)
    elif name == "torchscript":
        torch.jit.script(nn.Linear(2, 3)).save(str(path))
    elif name in ("empty", "text"):
        path.write_text("" if name == "empty" else "not a checkpoint\n" * 50)
    elif name != "absent":
        torch.save(stored, path)
        _damage(name, path)


def _damage(name: str, path: Path) -> None:
    data = bytearray(path.read_bytes())
    if name == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif name == "flipped":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif name == "compressed":
        with zipfile.ZipFile(path) as archive:
            entries = {entry: archive.read(entry) for entry in archive.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for entry, content in entries.items():
                archive.writestr(entry, content)
