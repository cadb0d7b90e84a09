from pathlib import Path

import pytest

from daefr.errors import UserError
from pipelines.config import load_config
from pipelines.preflight import check, remarks

DEMO = Path(__file__).parents[2] / "pipelines/configs/demo.yaml"
FFHQ = DEMO.with_name("ffhq512.yaml")


def test_a_run_stops_before_its_first_task_when_arcface_is_missing(tmp_path: Path) -> None:
    missing = tmp_path / "arcface.pth"
    config = load_config(DEMO, ["stages.association.identity.weight=3"])
    with pytest.raises(UserError, match="the identity term needs the weights of ArcFace"):
        check(config)
    config = load_config(DEMO, ["stages.association.identity={weight: 3, arcface: " + str(missing) + "}"])
    with pytest.raises(UserError, match=r"the identity term finds no ArcFace at .*identity\.weight=0"):
        check(config)
    missing.touch()
    check(config)
    check(load_config(DEMO))


def test_a_run_stops_before_its_first_task_when_the_detector_is_missing(tmp_path: Path) -> None:
    missing = tmp_path / "detector.pth"
    overrides = ["data.align=facexlib", f"data.detector={missing}"]
    with pytest.raises(UserError, match=r"no weights of a face detector at .*detector\.pth: download") as caught:
        check(load_config(DEMO, overrides))
    assert "\n" not in str(caught.value)
    check(load_config(DEMO, overrides[1:]))
    missing.touch()
    check(load_config(DEMO, overrides))


def test_stages_without_the_perceptual_term_are_named() -> None:
    assert remarks(load_config(DEMO)) == [
        "without the perceptual term, as perceptual.weight=0: hq_codebook, lq_codebook, association"
    ]
    assert remarks(load_config(FFHQ)) == []


def test_a_gate_that_cannot_hold_is_told_before_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    gate = "promotion.restoration.gates=[{metric: ida, most: 1}]"
    (line,) = remarks(load_config(FFHQ, [gate]))
    assert line.startswith("a gate of restoration cannot hold, as ida is unavailable: arcface_resnet18.pth")
