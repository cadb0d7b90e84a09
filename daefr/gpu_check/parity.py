"""Parity of the full-size network on this device with the reference implementation."""

import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from daefr.gpu_check.checks import Check, CheckResult, Metrics, NotAvailableError
from daefr.gpu_check.context import Context
from daefr.network.restoration import RestorationModel
from daefr.released.layout import layout_of
from daefr.settings.network import NetworkConfig, RestorationConfig
from daefr.settings.speed import Speed
from daefr.speed import arrange_batch, prepare_network

GENERATOR = "generator."
"""The prefix of the restoration network's names in a stage."""
TOLERANCE = 1e-3
"""Of means, standard deviations and samples, relative to the standard deviation."""
TIE = 1e-4
"""Codes are compared if the two best scores differ by more."""


def checks(context: Context) -> Iterator[Check]:
    """See the module."""
    yield Check("full-size network, float32 without TF32", lambda: _run(context), seconds=60)


def _run(context: Context) -> CheckResult:
    if context.golden is None:
        raise NotAvailableError("requires --golden DIR, the folder of the golden outputs")
    if context.quick:
        raise NotAvailableError("skipped with --quick")
    golden = json.loads((context.golden / "golden_full.json").read_text())
    speed = Speed(channels_last=True, autocast="off", compile=False, allow_tf32=False if context.on_gpu else None)
    model = prepare_network(_model(context.golden), speed, context.device).eval()
    lq = arrange_batch({"lq": _read(context.golden / "full_lq.png")}, speed, context.device)["lq"]
    with torch.no_grad():
        logits = model(lq).logits
        indices = logits.argmax(2)
        restored = model.decode(indices)
    best = logits.flatten(0, 1).topk(2, dim=1).values.cpu()
    clear = (best[:, 0] - best[:, 1]).abs() > TIE
    expected = torch.tensor(golden["predicted_indices"])
    wrong = int((indices.cpu().flatten()[clear] != expected[clear]).sum())
    levels = (_to_8_bit(restored.cpu()) - _to_8_bit(_read(context.golden / "full_restored.png"))).abs()
    metrics: Metrics = {
        "codes": len(expected),
        "near_ties": int((~clear).sum()),
        "different_codes": wrong,
        "logits_differ_by": _difference(logits, golden["logits"]),
        "restored_differs_by": _difference(restored, golden["restored"]),
        "largest_difference_of_255": float(levels.max()),
    }
    problems = [
        f"{name} is {metrics[name]:.2e}, more than {TOLERANCE:g}"
        for name in ("logits_differ_by", "restored_differs_by")
        if not metrics[name] <= TOLERANCE
    ]
    if wrong:
        problems.append(f"{wrong} codes differ from the reference's")
    if not levels.max() <= 1:
        problems.append(f"pixels differ by up to {levels.max():g} levels of 255, more than 1")
    return CheckResult(metrics, problems)


def _model(golden: Path) -> RestorationModel:
    specification = importlib.util.spec_from_file_location("reference_weights", golden / "weights.py")
    assert specification is not None and specification.loader is not None  # noqa: S101  # it is a .py file
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    shapes = json.loads((golden / "state_dict_daefr_full.json").read_text())
    seed = json.loads((golden / "golden_tiny.json").read_text())["seed"]
    released = layout_of("restoration", NetworkConfig()).own
    own = {name.removeprefix(GENERATOR): stored for stored, name in released.items() if name.startswith(GENERATOR)}
    arrays = module.state_dict({stored: shapes[stored] for stored in own.values()}, seed)
    model = RestorationModel(RestorationConfig())
    model.load_state_dict({name: torch.from_numpy(arrays[stored]) for name, stored in own.items()})
    return model


def _read(path: Path) -> Tensor:
    """(1, 3, H, W), RGB in [-1, 1]."""
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise FileNotFoundError(f"{path} is not an image")
    rgb = np.ascontiguousarray(bgr[:, :, ::-1].transpose(2, 0, 1), dtype=np.float32)
    return torch.from_numpy(rgb)[None] / 127.5 - 1


def _difference(tensor: Tensor, golden: Mapping[str, Any]) -> float:
    """Return the largest difference of mean, standard deviation and samples, relative to the standard deviation."""
    flat = tensor.detach().flatten().cpu()
    positions = torch.from_numpy(np.linspace(0, len(flat) - 1, len(golden["sample"])).astype(np.int64))
    pairs = [(flat.mean().item(), golden["mean"]), (flat.std().item(), golden["std"])]
    pairs += list(zip(flat[positions].tolist(), golden["sample"], strict=True))
    return float(max(abs(own - expected) for own, expected in pairs) / golden["std"])


def _to_8_bit(image: Tensor) -> Tensor:
    return ((image.clamp(-1, 1) + 1) * 127.5).round()
