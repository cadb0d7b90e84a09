"""Larger photographs: by a network that spandrel reads, tile by tile, and by resampling."""

from pathlib import Path

import numpy as np
import pytest
import torch
from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact

from daefr import ImageError, Restorer
from daefr.errors import UserError
from daefr.images import Image
from daefr.restore import restorer as module
from daefr.restore.upscale import MARGIN, Upscaler, upscale_image
from daefr.stages import RestorationStage
from tests.daefr import tiny
from tests.daefr.photographs import Told, photograph

CPU = torch.device("cpu")


def _weights(path: Path, scale: int = 2) -> Path:
    """Weights of Real-ESRGAN's compact network, small and random."""
    torch.manual_seed(0)
    torch.save(SRVGGNetCompact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=scale).state_dict(), path)
    return path


def _image(height: int = 90, width: int = 130) -> Image:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("scale", [2, 4])
def test_tiles_meet_without_a_seam(tmp_path: Path, scale: int) -> None:
    upscaler = Upscaler.load(_weights(tmp_path / "model.pth", scale), CPU)
    whole = upscaler(_image())
    assert whole.shape == (90 * scale, 130 * scale, 3)
    seen: list[int] = []
    tiled = Upscaler.load(tmp_path / "model.pth", CPU)
    tiled._tile = 32
    tiled._network.model.register_forward_pre_hook(lambda _, given: seen.append(max(given[0].shape[2:])))
    assert np.abs(tiled(_image()).astype(int) - whole).max() <= 1
    assert len(seen) == 3 * 5
    assert max(seen) <= 32 + 2 * MARGIN, "memory does not grow with the image"


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("own", [None, 2, 4])
def test_any_upscaler_gives_the_scale_that_is_asked_for(tmp_path: Path, scale: int, own: int | None) -> None:
    upscaler = None if own is None else Upscaler.load(_weights(tmp_path / "model.pth", own), CPU)
    assert upscale_image(_image(20, 30), scale, upscaler).shape == (20 * scale, 30 * scale, 3)
    assert np.array_equal(upscale_image(_image(20, 30), 1, upscaler), _image(20, 30))


def test_an_upscaler_is_read_whatever_wraps_it(tmp_path: Path) -> None:
    weights = torch.load(_weights(tmp_path / "model.pth"), weights_only=True)
    wrapped = {"epoch": Path("/a"), "params_ema": {f"module.{name}": tensor for name, tensor in weights.items()}}
    torch.save(wrapped, tmp_path / "wrapped.bin")
    image = _image(20, 30)
    plain = Upscaler.load(tmp_path / "model.pth", CPU)
    assert np.array_equal(Upscaler.load(tmp_path / "wrapped.bin", CPU)(image), plain(image))


@pytest.mark.parametrize("content", ["nothing", "text", "code", "other"])
def test_what_is_no_upscaler_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    if content == "text":
        path.write_text("weights")
    if content in ("code", "other"):
        torch.save({"code": Path, "other": {"weight": torch.zeros(3)}}[content], path)
    with pytest.raises(UserError, match=r"model\.pth") as caught:
        Upscaler.load(path, CPU)
    assert "\n" not in str(caught.value)


def test_faces_are_pasted_where_they_are_in_the_larger_photograph(tmp_path: Path) -> None:
    image, face = photograph(1, 300, zoom=0.4)
    stage = tiny.build("restoration")
    assert isinstance(stage, RestorationStage)
    upscaler = Upscaler.load(_weights(tmp_path / "model.pth"), CPU)
    restorer = Restorer(stage, CPU, detector=Told([face]), upscaler=upscaler)
    result = restorer(image, upscale=2)
    assert result.image.shape == (600, 600, 3)
    assert np.array_equal(result.faces[0].box, face.box)
    changed = np.argwhere((result.image != upscaler(image)).any(axis=2))
    middle = (face.landmarks.mean(axis=0) * 2)[::-1]
    assert np.abs((changed.min(axis=0) + changed.max(axis=0)) / 2 - middle).max() < 40
    nobody = Restorer(stage, CPU, detector=Told([]), upscaler=upscaler)(image, upscale=2)
    assert np.array_equal(nobody.image, upscaler(image))


def test_more_than_can_be_held_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIXEL_LIMIT", 1_000_000)
    stage = tiny.build("restoration")
    assert isinstance(stage, RestorationStage)
    restorer = Restorer(stage, CPU, detector=Told([]))
    assert restorer(_image(500, 500), upscale=2).image.shape == (1000, 1000, 3)
    with pytest.raises(ImageError, match="upscaled 4 times, more than 1000000"):
        restorer(_image(500, 500), upscale=4)
    with pytest.raises(UserError, match="upscaling 3 times is not to be had; 1, 2, 4 are"):
        restorer(_image(), upscale=3)
