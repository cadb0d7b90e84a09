"""What comparisons of models read is computed in float32, whatever training is computed in."""

from pathlib import Path

import pytest
import torch

from daefr.data.dataset import FaceDataset
from daefr.precision import device_name, evaluation_precision
from daefr.settings.base import StageName
from daefr.stages import STAGES
from daefr.training.validation import validate
from tests.daefr import tiny

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", STAGES)
def test_validation_does_not_depend_on_the_precision_of_training(dataset: Path, name: StageName) -> None:
    stage = tiny.build(name)
    faces = FaceDataset(dataset, "validation", stage.parts)
    expected, _ = validate(stage, faces, 2, CPU)
    with torch.autocast("cpu", torch.bfloat16):
        measured, _ = validate(stage, faces, 2, CPU)
    assert measured == expected


def test_autocast_and_compilation_are_off_inside_and_back_on_after() -> None:
    compiled = torch.compile(lambda x: (torch.compiler.is_compiling(), x), backend="eager")
    with torch.autocast("cpu", torch.bfloat16):
        with evaluation_precision(CPU):
            assert not torch.is_autocast_enabled("cpu")
            assert compiled(torch.zeros(1))[0] is False
        assert torch.is_autocast_enabled("cpu")
    assert compiled(torch.zeros(1))[0] is True


def test_tf32_is_off_inside_and_as_it_was_after() -> None:
    from daefr.precision import _without_tf32

    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = cudnn.benchmark = True
        with _without_tf32():
            assert (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark) == (False, False, False)
        assert (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark) == (True, True, True)
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


def test_a_device_has_a_name_to_record() -> None:
    assert device_name(CPU) == "cpu"
