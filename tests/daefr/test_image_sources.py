"""What a `Restorer` takes: files, buffers, images and arrays of every kind that Pillow has too."""

import array
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from daefr import ImageError, Restorer
from daefr.stages import RestorationStage
from tests.daefr import tiny
from tests.daefr.photographs import Told, photograph

RGB, FACE = photograph(1, 200, zoom=0.4)
ALPHA = np.linspace(0, 255, RGB.shape[0] * RGB.shape[1]).astype(np.uint8).reshape(RGB.shape[:2])


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    stage = tiny.build("restoration")
    assert isinstance(stage, RestorationStage)
    return Restorer(stage, torch.device("cpu"), detector=Told([FACE]))


def _png() -> bytes:
    data = io.BytesIO()
    PIL.Image.fromarray(RGB).save(data, "PNG")
    return data.getvalue()


def _written() -> io.BytesIO:
    data = io.BytesIO()
    data.write(_png())
    return data


BUFFERS: dict[str, Callable[[], Any]] = {
    "bytes": _png,
    "bytearray": lambda: bytearray(_png()),
    "memoryview": lambda: memoryview(_png()),
    "memoryview of an array": lambda: memoryview(array.array("B", _png())),
    "BytesIO": lambda: io.BytesIO(_png()),
    "BytesIO at its end": _written,
}


@pytest.mark.parametrize("name", BUFFERS)
def test_content_in_any_buffer(name: str, restorer: Restorer) -> None:
    assert np.array_equal(restorer(BUFFERS[name]()).image, restorer(RGB).image)


def test_open_files_and_paths(restorer: Restorer, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(_png())
    with path.open("rb") as file:
        file.read(3)
        assert np.array_equal(restorer(file).image, restorer(path).image)
    assert np.array_equal(restorer(str(path)).image, restorer(path).image)


@pytest.mark.parametrize(
    "pixels",
    [
        RGB[..., 1],
        RGB[..., 1:2],
        np.dstack([RGB[..., 1], ALPHA]),
        np.dstack([RGB, ALPHA]),
        np.dstack([RGB, ALPHA])[:, ::-1],
        np.asfortranarray(RGB[..., 1]),
    ],
    ids=["gray", "one channel", "gray with alpha", "RGBA", "mirrored", "column by column"],
)
def test_arrays_are_what_images_of_their_kind_are(pixels: Any, restorer: Restorer) -> None:
    image = PIL.Image.fromarray(np.ascontiguousarray(pixels.squeeze()))
    ours, theirs = restorer(pixels).photograph, restorer(image).photograph
    assert np.array_equal(ours.pixels, theirs.pixels)
    assert ours.one_channel == theirs.one_channel == (pixels.ndim == 2 or pixels.shape[2] < 3)
    assert (ours.alpha is None) == (theirs.alpha is None)
    assert ours.alpha is None or np.array_equal(ours.alpha, theirs.alpha)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "NoneType"),
        (3, "int"),
        ([RGB], "list"),
        (torch.zeros(3, 8, 8), "Tensor"),
        (io.StringIO("text"), "binary"),
        (io.BytesIO(), "not a readable"),
        (RGB.astype(np.float32), "float32"),
        (np.zeros((0, 4), np.uint8), r"\(0, 4\)"),
        (np.zeros((4, 4, 5), np.uint8), r"\(4, 4, 5\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"\(1, 4, 4, 3\)"),
    ],
)
def test_anything_else_is_an_error_that_names_it(given: Any, words: str, restorer: Restorer) -> None:
    with pytest.raises(ImageError, match=words):
        restorer(given)
    first, second = restorer.restore_all([given, RGB])
    assert isinstance(first, ImageError)
    assert not isinstance(second, ImageError), "one that cannot be read does not stop the others"
