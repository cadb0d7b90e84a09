"""Restoring and measuring samples: metrics, sizes, and problems."""

import cv2
import numpy as np
import pytest
import torch

from daefr.checkpoint import Checkpoint
from daefr.errors import UserError
from daefr.evaluation import EvaluationSample, Evaluator, ImageResult, MethodOutput, TrainedModel, draw_grid
from daefr.evaluation.grid import TILE_SIDE, TITLE_HEIGHT
from daefr.images import Image, decode_image
from daefr.metrics import fidelity
from daefr.metrics.meter import MetricSet
from daefr.metrics.registry import MetricSetup
from daefr.restore import FOR_RESTORING
from daefr.restore.model import CropRestorer, open_model
from daefr.settings.base import StageName
from tests.daefr import tiny

CPU = torch.device("cpu")
SIDE = tiny.SIDE


@pytest.fixture(scope="module")
def metrics() -> MetricSet:
    return MetricSet(("psnr", "ssim"), MetricSetup("paper", CPU))


@pytest.fixture(scope="module")
def model(checkpoints: dict[StageName, Checkpoint]) -> TrainedModel:
    return TrainedModel.load(checkpoints["restoration"].path, CPU)


class Halved:
    """A method that halves the brightness, and takes faces of 16 pixels."""

    resolution = SIDE

    def restore(self, images: list[Image]) -> list[MethodOutput]:
        assert {image.shape for image in images} == {(SIDE, SIDE, 3)}
        return [MethodOutput(image // 2) for image in images]


def _face(seed: int, side: int = SIDE) -> Image:
    return tiny.face(np.random.default_rng(seed), side)


def _psnr(image: Image, target: Image) -> float:
    one, other = (torch.from_numpy(np.ascontiguousarray(each)).permute(2, 0, 1)[None] for each in (image, target))
    return fidelity.psnr(one, other).item()


@pytest.mark.parametrize("batch", [1, 4])
def test_input_and_restored_are_measured_against_the_ground_truth(metrics: MetricSet, batch: int) -> None:
    samples = [EvaluationSample(f"face-{seed}", _face(seed), _face(seed + 10)) for seed in range(5)]
    found = list(Evaluator(metrics, Halved(), batch=batch)(samples))
    assert [each.name for each in found] == [sample.name for sample in samples]
    for each, sample in zip(found, samples, strict=True):
        assert each.metrics["psnr/lq"] == pytest.approx(_psnr(sample.lq, sample.hq))
        assert each.metrics["psnr/restored"] == pytest.approx(_psnr(sample.lq // 2, sample.hq))
        assert set(each.metrics) == {"psnr/lq", "ssim/lq", "psnr/restored", "ssim/restored"}


def test_faces_are_restored_and_measured_at_the_methods_resolution(metrics: MetricSet) -> None:
    hq, small = _face(0, 4 * SIDE), _face(1, SIDE // 2)
    (found,) = Evaluator(metrics, Halved())([EvaluationSample("face", small, hq)])
    enlarged = cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    shrunk = cv2.resize(hq, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    assert found.metrics["psnr/restored"] == pytest.approx(_psnr(enlarged // 2, shrunk))
    assert found.metrics["psnr/lq"] == pytest.approx(_psnr(enlarged, shrunk))


def test_a_problem_with_one_sample_does_not_affect_others(metrics: MetricSet) -> None:
    samples = [
        EvaluationSample("good", _face(0), _face(1)),
        EvaluationSample("wide", _face(0)[: SIDE // 2], _face(1)),
        EvaluationSample("small", _face(0), _face(1, SIDE // 2)),
        EvaluationSample("gone", None, _face(1)),
        EvaluationSample("good too", _face(2), _face(3)),
    ]
    found = {each.name: each for each in Evaluator(metrics, Halved(), batch=8)(samples)}
    assert list(found) == [sample.name for sample in samples]
    assert [bool(each.problem) for each in found.values()] == [False, True, True, True, False]
    assert "16x8" in found["wide"].problem
    assert "16x16" in found["small"].problem
    assert found["gone"].problem.startswith("missing")
    assert found["wide"].metrics == {}


def test_precomputed_results_are_measured_unchanged(metrics: MetricSet) -> None:
    evaluator = Evaluator(metrics)
    restored, hq = _face(0, 24), _face(1, 24)
    found = list(
        evaluator(
            [
                EvaluationSample("face", _face(2), hq, restored),
                EvaluationSample("without truth", _face(2), None, restored),
                EvaluationSample("larger truth", None, _face(1, 48), restored),
                EvaluationSample("not restored", _face(2), hq),
            ]
        )
    )
    assert found[0].metrics["psnr/restored"] == pytest.approx(_psnr(restored, hq))
    assert found[1].metrics == {}
    assert not found[1].problem
    assert "48x48" in found[2].problem
    assert found[3].problem.startswith("missing")


def test_a_trained_model_restores_like_the_restorer_and_returns_codes(
    checkpoints: dict[StageName, Checkpoint], model: TrainedModel
) -> None:
    faces = [_face(0), _face(1)]
    restorer = CropRestorer(open_model(checkpoints["restoration"].path), CPU, FOR_RESTORING)
    for expected, restored in zip(restorer(faces, batch=2), model.restore(faces), strict=True):
        assert isinstance(expected, np.ndarray)
        difference = restored.image.astype(int) - expected
        assert np.abs(difference).max() <= 1
        assert restored.codes is not None
        assert restored.codes.shape == (64,)
        assert restored.codes.max() < model.codes == tiny.CODES


def test_hq_reconstructions_are_measured_on_request(metrics: MetricSet, model: TrainedModel) -> None:
    sample = EvaluationSample("face", _face(0), _face(1))
    (found,) = Evaluator(metrics, model, reconstruct=True)([sample])
    (rebuilt,) = model.reconstruct([sample.hq])
    assert found.metrics["psnr/hq_codebook"] == pytest.approx(_psnr(rebuilt, sample.hq))
    (plain,) = Evaluator(metrics, model)([sample])
    assert "psnr/hq_codebook" not in plain.metrics


def test_thumbnails_are_small_copies_of_the_measured_images(metrics: MetricSet) -> None:
    lq, hq, restored = (np.full((600, 300, 3), shade, np.uint8) for shade in (20, 120, 220))
    (found,) = Evaluator(metrics)([EvaluationSample("face", lq, hq, restored)])
    shown = {name: decode_image(data) for name, data in found.thumbnails.items()}
    assert {name: image.shape for name, image in shown.items()} == dict.fromkeys(("lq", "hq", "restored"), (192, 96, 3))
    assert {name: round(image.mean(), -1) for name, image in shown.items()} == {"lq": 20, "hq": 120, "restored": 220}


def test_only_restoration_can_be_evaluated(checkpoints: dict[StageName, Checkpoint]) -> None:
    with pytest.raises(UserError, match="association"):
        TrainedModel.load(checkpoints["association"].path, CPU)


def test_a_grid_has_one_row_per_face_and_white_for_missing_images() -> None:
    grid = draw_grid([{"hq": _face(0), "lq": _face(1), "restored": _face(2)}, {"restored": _face(3)}])
    assert grid.shape == (TITLE_HEIGHT + 2 * TILE_SIDE, 3 * TILE_SIDE, 3)
    assert (grid[-TILE_SIDE:, :TILE_SIDE] == 255).all()
    assert not (grid[-TILE_SIDE:, -TILE_SIDE:] == 255).all()


def test_no_samples_give_no_results(metrics: MetricSet) -> None:
    none: list[ImageResult] = list(Evaluator(metrics, Halved())([]))
    assert none == []
