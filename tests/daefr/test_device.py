"""Devices other than CUDA's: which is chosen, what is computed elsewhere, and what is said of it."""

import os
import subprocess
import sys
import warnings
from unittest.mock import Mock

import pytest
import torch

from daefr.device import choose_device, resolve_device, worker_device
from daefr.errors import UserError
from daefr.precision import device_name
from daefr.restore.model import FOR_RESTORING, CropRestorer
from daefr.settings.speed import Speed
from daefr.stages import RestorationStage
from daefr.tensors import to_device, to_float64
from tests.daefr import tiny

LACKING = (
    "The operator 'aten::sgn.out' is not currently supported on the MPS backend and will fall back to run on the CPU. "
    "This may have performance implications. (Triggered internally at /Users/runner/MPSFallback.mm:12.)"
)
XPU_LACKING = "Aten Op fallback from XPU to CPU happends. This may have performance implications."


def _fake(monkeypatch: pytest.MonkeyPatch, kind: str | None, count: int = 1) -> None:
    """A machine with accelerators of a kind, on which tensors are on the CPU."""
    found = None if kind is None else torch.device(kind)
    zeros = torch.zeros

    def made(size: int, device: torch.device) -> torch.Tensor:
        if device.type not in ("cpu", kind) or (device.index or 0) >= count:
            raise AssertionError(f"Torch not compiled with {device.type} enabled")
        return zeros(size)

    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: found)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: count if kind else 0)
    monkeypatch.setattr(torch, "zeros", made)


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu"])
def test_an_accelerator_of_any_kind_is_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake(monkeypatch, kind, 2)
    for device in (choose_device(), choose_device("auto"), choose_device(kind), worker_device(use_gpu=True)):
        assert device.type == kind
    assert choose_device(f"{kind}:1") == torch.device(kind, 1)
    assert choose_device("cpu") == worker_device(use_gpu=False) == torch.device("cpu")


@pytest.mark.parametrize(
    ("kind", "count", "valid"),
    [
        (None, 0, "auto, cpu"),
        ("mps", 1, "auto, cpu, mps"),
        ("xpu", 2, "auto, cpu, xpu, xpu:0, xpu:1"),
        ("cuda", 2, "auto, cpu, cuda, cuda:0, cuda:1"),
    ],
)
@pytest.mark.parametrize("name", ["cuda:7", "hpu", "gpu", "mps:3", "", "meta"])
def test_what_is_not_there_is_answered_with_what_is(
    kind: str | None, count: int, valid: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake(monkeypatch, kind, count)
    with pytest.raises(UserError, match=rf"^--device {name} is not available; choose one of: {valid}$"):
        resolve_device(name)


def test_a_worker_that_should_have_a_gpu_does_not_compute_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    _fake(monkeypatch, None)
    with pytest.raises(UserError, match="no GPU"):
        worker_device(use_gpu=True)


def test_what_a_device_leaves_to_the_cpu_is_said_in_one_line_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _fake(monkeypatch, "mps")
    monkeypatch.setattr(warnings, "filters", [])
    warnings.simplefilter("always")
    other = Mock()
    monkeypatch.setattr(warnings, "showwarning", other)
    resolve_device("auto")
    for message in (LACKING, LACKING, XPU_LACKING, XPU_LACKING):
        warnings.warn(message, stacklevel=1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "aten::sgn.out" in lines[0]
    assert all("CPU" in line for line in lines)
    other.assert_not_called()
    warnings.warn("something else", stacklevel=1)
    other.assert_called_once()


def test_the_fallback_is_switched_on_before_pytorch_is_imported() -> None:
    program = (
        "import daefr, os, sys; assert 'torch' not in sys.modules; "
        "print(os.environ['PYTORCH_ENABLE_MPS_FALLBACK'], os.environ['PYTORCH_ENABLE_XPU_FALLBACK'])"
    )
    without = {name: value for name, value in os.environ.items() if not name.startswith("PYTORCH_ENABLE")}
    for given, expected in (({}, "1 1"), ({"PYTORCH_ENABLE_MPS_FALLBACK": "0"}, "0 1")):
        ran = subprocess.run([sys.executable, "-c", program], env=without | given, capture_output=True, text=True)
        assert ran.stdout.split() == expected.split(), ran.stderr


@pytest.mark.parametrize("kind", ["mps", "xpu"])
def test_nothing_of_cuda_is_assumed(kind: str) -> None:
    chosen = Speed().on(kind)
    assert (chosen.autocast, chosen.compile, chosen.cudnn_benchmark) == ("off", False, False)
    assert not chosen.retain_freed_memory
    with pytest.raises(UserError, match="TF32"):
        Speed(allow_tf32=True).check_device(kind)
    assert Speed(autocast="bfloat16").on(kind).autocast == "bfloat16"
    assert FOR_RESTORING.on("mps").channels_last is False


@pytest.mark.parametrize("kind", ["mps", "xpu"])
def test_float64_is_computed_where_it_exists(kind: str) -> None:
    there, here = Mock(device=torch.device(kind)), torch.ones(3)
    there.cpu.return_value = here
    assert to_float64(there).dtype == torch.float64
    there.double.assert_not_called()
    assert to_float64(here).dtype == torch.float64
    to_device(there, torch.device(kind))
    there.to.assert_called_once_with(torch.device(kind), non_blocking=False)


def test_a_device_has_a_name() -> None:
    assert device_name(torch.device("cpu")) == "cpu"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("MPS backend out of memory (MPS allocated: 17.01 GB)"), "too little memory for 1 faces"),
        (torch.OutOfMemoryError("CUDA out of memory."), "too little memory for 1 faces"),
        (NotImplementedError("The operator 'aten::x' is not implemented\nfor the MPS device"), "aten::x"),
    ],
)
def test_what_a_device_cannot_is_said_in_one_line(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = tiny.build("restoration")
    assert isinstance(stage, RestorationStage)
    restorer = CropRestorer(stage, torch.device("cpu"), FOR_RESTORING)
    monkeypatch.setattr(restorer._model, "restore", Mock(side_effect=error))
    face = torch.zeros(16, 16, 3, dtype=torch.uint8).numpy()
    with pytest.raises(UserError, match=words) as caught:
        restorer([face], 1)
    assert "\n" not in str(caught.value)
