"""LPIPS, FID, IDA and LMD against other implementations of them, on the same random weights."""

from collections.abc import Iterator
from pathlib import Path

import lpips
import numpy as np
import pytest
import pytorch_fid.inception
import torch
import torch.nn.functional as F
from facexlib.alignment.awing_arch import FAN, CoordConvTh
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from daefr.errors import UserError
from daefr.losses.identity import ARCFACE, load_arcface
from daefr.metrics.fid import Accumulator, Inception, Statistics, frechet_distance
from daefr.metrics.identity import angle
from daefr.metrics.landmarks import AWING_FAN, LandmarkDistance, peaks
from daefr.metrics.meter import Meter, Totals
from daefr.metrics.pairs import Images
from daefr.metrics.registry import MetricSetup
from daefr.network.arcface import ArcFace
from daefr.settings.metrics import Protocol

TOLERANCE = 1e-4
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        yield


def _images(count: int, side: int, seed: int = 0) -> Tensor:
    """(count, 3, side, side) uint8, coarse enough to survive resizing, and of different colors."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((count, 3, 8, 8), generator=generator) * torch.tensor([255, 160, 80]).view(3, 1, 1)
    return F.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 255).to(torch.uint8)


def _measure(name: str, protocol: Protocol, weights: Path, images: Tensor, targets: Tensor) -> dict[str, list[float]]:
    """The figures of each pair, by way of the file of weights."""
    meter = Meter([name], MetricSetup(protocol, CPU, weights), with_targets=True)  # type: ignore[list-item]
    batch = [Images("", image, target) for image, target in zip(images, targets, strict=True)]
    rows = meter.update(batch)
    return {column: [row[column] for row in rows] for column in rows[0]}


@pytest.mark.filterwarnings("ignore:.*since 0.13.*:UserWarning")
def test_lpips_is_that_of_its_authors(tmp_path: Path) -> None:
    theirs = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    stored = {
        f"features.{name.split('.', 2)[2]}": tensor for name, tensor in theirs.state_dict().items() if "net." in name
    }
    torch.save(stored, tmp_path / "vgg16-397923af.pth")
    images, targets = _images(2, 48), _images(2, 48, seed=1)
    rgb = [each.float() / 255 for each in (images, targets)]
    bgr = [each.flip(1) for each in rgb]
    with torch.no_grad():
        expected = {
            ("paper", "lpips"): theirs(bgr[0] * 2 - 1, bgr[1] * 2 - 1),
            ("paper", "lpips_01"): theirs(*bgr),
            ("standard", "lpips"): theirs(rgb[0] * 2 - 1, rgb[1] * 2 - 1),
        }
    paper, standard = (_measure("lpips", protocol, tmp_path, images, targets) for protocol in ("paper", "standard"))
    measured = {("paper", name): value for name, value in paper.items()}
    measured |= {("standard", name): value for name, value in standard.items()}
    assert measured.keys() == expected.keys()
    for key, value in measured.items():
        assert value == pytest.approx(expected[key].flatten().tolist(), abs=TOLERANCE), key
    # the protocols differ by more than the tolerance, or this would show nothing
    assert abs(paper["lpips"][0] - standard["lpips"][0]) > 3 * TOLERANCE
    assert abs(paper["lpips"][0] - paper["lpips_01"][0]) > 3 * TOLERANCE


def test_ida_is_the_angle_of_arcface_embeddings(tmp_path: Path) -> None:
    network = ArcFace(channels=4).eval()
    torch.save(nn.DataParallel(network).state_dict(), tmp_path / ARCFACE.name)
    images, targets = _images(2, 160), _images(2, 160, seed=1)

    def embed(image: Tensor, weights: tuple[float, float, float], *, centered: bool) -> np.ndarray:
        red, green, blue = image.float() / 127.5 - 1 if centered else image.float() / 255
        gray = weights[0] * red + weights[1] * green + weights[2] * blue
        small = F.interpolate(gray[None, None], (128, 128), mode="bilinear", align_corners=False)
        with torch.no_grad():
            return network(small)[0].double().numpy()

    for protocol, weights, centered in (
        ("paper", (0.1140, 0.5870, 0.2989), False),
        ("standard", (0.2989, 0.5870, 0.1140), True),
    ):
        expected = []
        for image, target in zip(images, targets, strict=True):
            one, other = (embed(each, weights, centered=centered) for each in (image, target))
            expected.append(np.arccos(one @ other / np.linalg.norm(one) / np.linalg.norm(other)))
        assert min(expected) > 0.01
        measured = _measure("ida", protocol, tmp_path, images, targets)  # type: ignore[arg-type]
        assert measured["ida"] == pytest.approx(expected, abs=TOLERANCE)
        assert _measure("ida", protocol, tmp_path, images, images)["ida"] == [0, 0]  # type: ignore[arg-type]


def test_angles_are_exact_at_both_ends() -> None:
    one = torch.tensor([[1.0, 0.0], [1.0, 0.0], [3.0, 0.0], [1.0, 0.0]])
    other = torch.tensor([[2.0, 0.0], [1.0, 1e-6], [0.0, 1.0], [-5.0, 0.0]])
    assert angle(one, other).tolist() == pytest.approx([0, 1e-6, np.pi / 2, np.pi], rel=1e-5)


def test_lmd_is_that_of_facexlibs_landmarks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # facexlib 0.3.0 still uses a name that NumPy has dropped
    monkeypatch.setattr(np, "float", float, raising=False)
    network = FAN(num_modules=4, num_landmarks=98, device="cpu").eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, CoordConvTh):
                # or random weights see little but the coordinates, and find everything in the corners
                module.conv.weight[:, -5 if module.conv.in_channels > 256 else -3 :] = 0
    torch.save({"state_dict": network.state_dict()}, tmp_path / AWING_FAN.name)
    images, targets = _images(2, 512, seed=1).split(1)
    with torch.no_grad():
        points = [
            [network.get_landmarks(image.permute(1, 2, 0).numpy()[:, :, ::-1]) for image in each]
            for each in (images, targets)
        ]
    expected = np.linalg.norm(np.subtract(*points), axis=2).mean(1)
    assert min(expected) > 1
    assert _measure("lmd", "paper", tmp_path, images, targets)["lmd"] == pytest.approx(expected, abs=TOLERANCE)


def test_landmarks_are_between_pixels_and_scale_with_the_image() -> None:
    heatmaps = torch.zeros(1, 2, 64, 64)
    # the first at column 20, row 30, higher to the right and above; the second at column 5, row 7, with nothing around
    heatmaps[0, 0, 30, 20], heatmaps[0, 0, 30, 21], heatmaps[0, 0, 29, 20] = 3, 1, 2
    heatmaps[0, 1, 7, 5] = 1
    assert peaks(heatmaps)[0].tolist() == [[20.75, 30.25], [5.5, 7.5]]

    class Stub(nn.Module):
        def forward(self, images: Tensor) -> tuple[list[Tensor], None]:
            assert images.shape == (1, 3, 256, 256)
            return [torch.cat([heatmaps.repeat(1, 49, 1, 1), torch.ones(1, 1, 64, 64)], dim=1)], None

    found = LandmarkDistance(Stub()).landmarks(_images(1, 128))
    assert found.shape == (1, 98, 2)
    assert found[0, :2].tolist() == [[41.5, 60.5], [11, 15]]


def test_fids_features_are_those_of_pytorch_fid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Inception().network
    stored = network.state_dict()
    for name, tensor in stored.items():
        if name.endswith("running_mean"):
            tensor.uniform_(-0.1, 0.1)
    torch.save(stored, tmp_path / "inception.pth")
    monkeypatch.setattr(pytorch_fid.inception, "load_state_dict_from_url", lambda *_, **__: stored)
    theirs = pytorch_fid.inception.InceptionV3([3], resize_input=True, normalize_input=False).eval()
    images = _images(2, 128)
    with torch.no_grad():
        expected = theirs(images.float() / 255 * 2 - 1)[0].flatten(1)
        found = Inception.load(tmp_path / "inception.pth")(images)
    assert found.shape == (2, 2048)
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)


class Features(nn.Module):
    """A stand-in for Inception with few features."""

    num_features = 12

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, self.num_features)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(F.adaptive_avg_pool2d(images.float() / 255, 8).flatten(1)).relu()  # type: ignore[no-any-return]


@pytest.mark.parametrize("count", [40, 5])
def test_fid_is_that_of_torchmetrics(count: int) -> None:
    """With more images than features, and with fewer, whose covariance is singular."""
    network = Features()
    restored, real = _images(count, 16), _images(30, 16, seed=1)
    theirs = FrechetInceptionDistance(feature=network)
    theirs.update(real, real=True)
    theirs.update(restored, real=False)
    gathered = Accumulator()
    for batch in real.split(7):
        gathered.update(network(batch))
    totals = Totals(gathered.statistics())
    for batch in restored.split(3):
        totals.add([], network(batch))
    fid = totals.figures()["fid"]
    assert fid.value == pytest.approx(theirs.compute().item(), abs=TOLERANCE)
    assert fid.value > 0.01
    assert fid.count == count


def test_statistics_are_mean_and_covariance_whatever_the_batches() -> None:
    network, images = Features(), _images(20, 16)
    with torch.no_grad():
        features = network(images).double().numpy()
    gathered = Accumulator()
    for batch in images.split(6):
        gathered.update(network(batch))
    found = gathered.statistics()
    np.testing.assert_allclose(found.mean, features.mean(0), atol=1e-6)
    np.testing.assert_allclose(found.covariance, np.cov(features, rowvar=False), atol=1e-6)
    assert frechet_distance(found, found) == pytest.approx(0, abs=1e-6)
    with pytest.raises(UserError, match="1 is too few"):
        one = Accumulator()
        one.update(network(images[:1]))
        one.statistics()


def test_statistics_come_back_from_files(tmp_path: Path) -> None:
    mean, covariance = torch.rand(2048, dtype=torch.float64), torch.eye(2048, dtype=torch.float64)
    Statistics(mean, covariance).write(tmp_path / "own.npz")
    # as BasicSR writes them
    torch.save({"name": "FFHQ", "mean": mean.numpy(), "cov": covariance.numpy()}, tmp_path / "theirs.pth")
    for name in ("own.npz", "theirs.pth"):
        read = Statistics.read(tmp_path / name)
        assert torch.equal(read.mean, mean)
        assert torch.equal(read.covariance, covariance)


class Hostile:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("run",)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "holds no statistics"),
        (b"nonsense", "holds no statistics"),
        ({"mean": np.zeros(2048)}, "cov"),
        ([1, 2], "holds no statistics"),
        ({"mean": np.zeros(3), "cov": np.eye(3)}, r"2048 features.*\(3,\) and \(3, 3\)"),
        ({"mean": Hostile(), "cov": 1}, "holds no statistics"),
    ],
)
def test_other_files_are_no_statistics(
    content: object, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "statistics.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=problem) as caught:
        Statistics.read(path)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_other_files_are_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    for load in (Inception.load, load_arcface, lambda path: LandmarkDistance.load(path, CPU)):
        with pytest.raises(UserError, match=r"weights\.pth is not ") as caught:
            load(path)
        assert "\n" not in str(caught.value)
