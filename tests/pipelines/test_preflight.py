from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from daefr.errors import UserError
from pipelines.config import load_config
from pipelines.preflight import check, check_nodes, remarks
from tests.e2e.command import ROOT

DEMO = ROOT / "pipelines/configs/demo.yaml"
FFHQ = DEMO.with_name("ffhq512.yaml")


def test_a_run_stops_before_its_first_task_when_arcface_is_missing(tmp_path: Path) -> None:
    missing = tmp_path / "arcface.pth"
    config = load_config(DEMO, ["stages.association.identity.weight=3"])
    with pytest.raises(UserError, match=r"identity\.arcface"):
        check(config)
    config = load_config(DEMO, ["stages.association.identity={weight: 3, arcface: " + str(missing) + "}"])
    with pytest.raises(UserError, match=r"identity\.weight=0"):
        check(config)
    missing.touch()
    check(config)
    check(load_config(DEMO))


def test_a_run_stops_before_its_first_task_when_the_detector_is_missing(tmp_path: Path) -> None:
    missing = tmp_path / "detector.pth"
    overrides = ["data.align=facexlib", f"data.detector={missing}"]
    with pytest.raises(UserError, match=r"detector\.pth") as caught:
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
    gate = "promotion.restoration.gates=[{metric: ida, max_value: 1}]"
    (line,) = remarks(load_config(FFHQ, [gate]))
    assert line.startswith("a gate of restoration cannot hold, as ida is unavailable: arcface_resnet18.pth")


@pytest.fixture
def a_node_without_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cluster of one node with a GPU, as far as Ray knows, whose processes find no compiler; the driver finds one."""
    (tmp_path / "gcc").touch(0o755)
    for name in ("CC", "CXX"):
        monkeypatch.setenv(name, str(tmp_path / "gcc"))
    ray.init(
        address="local",
        num_cpus=1,
        num_gpus=1,
        runtime_env={"env_vars": {"CC": "no-such-compiler", "CXX": "no-such-compiler", "PYTHONPATH": str(ROOT)}},
        object_store_memory=100 * 1024**2,
        log_to_driver=False,
    )
    yield
    ray.shutdown()


@pytest.mark.usefixtures("a_node_without_compiler")
def test_a_node_that_cannot_compile_is_named_before_the_first_task() -> None:
    with pytest.raises(UserError, match=r"stages\.hq_codebook\.speed\.compile=false") as caught:
        check_nodes(load_config(FFHQ))
    assert ray.util.get_node_ip_address() in str(caught.value)
    assert "CC=no-such-compiler" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"stages\.restoration\.speed\.compile=false"):
        check_nodes(load_config(FFHQ), ["restoration"])
    check_nodes(load_config(DEMO))
    with pytest.raises(UserError, match="CXX=no-such-compiler"):
        check_nodes(load_config(DEMO, ["stages.association.speed.compile=true"]))


def test_stages_that_do_not_compile_need_no_cluster() -> None:
    check_nodes(load_config(DEMO))
    eager = [
        f"stages.{name}.speed.compile=false" for name in ("hq_codebook", "lq_codebook", "association", "restoration")
    ]
    check_nodes(load_config(FFHQ, eager))
    assert not ray.is_initialized()
