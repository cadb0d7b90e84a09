"""The benchmark of the loader: that it runs and adds up."""

import json

import pytest

from infra.benchmarks.__main__ import main


def test_training_with_and_without_its_loader(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--resolution=64", "--channels=32", "--batch=1", "--steps=2", "--loaders=1", "--faces=2"]
    assert main(["loader", "--device=cpu", *sizes]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert list(metrics) == ["hq_codebook", "association", "restoration"]
    for measured in metrics.values():
        assert measured["ratio"] == pytest.approx(measured["samples_per_second"] / measured["without_loader"])
        assert 0 < measured["waiting"] < 1


@pytest.mark.parametrize(("option", "name"), [("--steps=0", "--steps=0"), ("--resolution=100", "resolution")])
def test_invalid_sizes_are_rejected(option: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["loader", "--device=cpu", option]) == 2
    assert name in capsys.readouterr().err
