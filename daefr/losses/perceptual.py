"""LPIPS on VGG16 as a training loss (paper section 3.1; Zhang et al. 2018, version 0.1)."""

import importlib.util
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from daefr.errors import UserError
from daefr.published import Published

SLICES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
IMAGE_CHANNELS = 3
# ImageNet's mean and standard deviation, for images in [-1, 1]
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
LENGTH_FLOOR = 1e-10
VGG16 = Published(
    name="vgg16-397923af.pth", url="https://download.pytorch.org/models/vgg16-397923af.pth", sha256="397923af"
)


class PerceptualLoss(nn.Module):
    """Distance of two images in VGG16's features: 0 for equal images.

    Frozen, and always in eval mode. State-dict keys are those under ``loss.perceptual_loss.`` in the released
    checkpoints. The weights are random until `load` or `load_state_dict` is called.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scaling_layer = _Scaling()
        self.net = _Features()
        for index, widths in enumerate(SLICES):
            self.add_module(f"lin{index}", _Channels(widths[-1]))
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def load(cls, vgg16: Path | None = None) -> "PerceptualLoss":
        """Build the loss from torchvision's VGG16 and the channel weights in the `lpips` package.

        Args:
            vgg16: torchvision's state dict, ``.pth`` or ``.safetensors``, whose classifier is not used; by default,
                it is downloaded (see `find_vgg16`).

        Raises:
            UserError: if a file is missing or does not contain these weights.

        """
        loss = cls()
        features = _vgg16_weights(find_vgg16(vgg16))
        loss.load_state_dict(loss.scaling_layer.state_dict(prefix="scaling_layer.") | features | _channel_weights())
        return loss

    def train(self, mode: bool = True) -> "PerceptualLoss":  # noqa: ARG002 - the signature is PyTorch's
        """Stay in eval mode, because the network is frozen."""
        return super().train(mode=False)

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Return the distance (B,) of each image to its target; gradients flow to `image` only.

        Args:
            image: (B, 3, H, W), RGB in [-1, 1].
            target: likewise.

        """
        with torch.no_grad():
            target_features = self.net(self.scaling_layer(target))
        image_features = self.net(self.scaling_layer(image))
        # float32 even under autocast
        with torch.autocast(image.device.type, enabled=False):
            distances = [
                # both are linear, so the mean over positions comes first, which is cheaper
                self.get_submodule(f"lin{index}")(_Distance.apply(feature.float(), other.float()))
                for index, (feature, other) in enumerate(zip(image_features, target_features, strict=True))
            ]
            return torch.stack(distances).sum(0).flatten()


class _Scaling(nn.Module):
    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, IMAGE_CHANNELS, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(1, IMAGE_CHANNELS, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Convert images in [-1, 1] to VGG16's input."""
        return (image - self.shift) / self.scale


class _Features(nn.Module):
    """The convolutions of VGG16 in five slices; layers are named by their index in torchvision's `features`."""

    def __init__(self) -> None:
        super().__init__()
        layer = 0
        before = IMAGE_CHANNELS
        for number, widths in enumerate(SLICES, start=1):
            part = nn.Sequential()
            if number > 1:
                part.add_module(str(layer), nn.MaxPool2d(kernel_size=2))
                layer += 1
            for after in widths:
                part.add_module(str(layer), nn.Conv2d(before, after, kernel_size=3, padding=1))
                part.add_module(str(layer + 1), nn.ReLU(inplace=True))
                layer += 2
                before = after
            self.add_module(f"slice{number}", part)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the output of each slice, finest first."""
        outputs: list[Tensor] = []
        for part in self.children():
            image = part(image)
            outputs.append(image)
        return outputs


class _Channels(nn.Module):
    """The weighted sum over channels: (B, C, 1, 1) -> (B, 1, 1, 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # in LPIPS's own training, layer 0 is a dropout
        self.model = nn.Sequential()
        self.model.add_module("1", nn.Conv2d(channels, 1, kernel_size=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)  # type: ignore[no-any-return]


class _Distance(torch.autograd.Function):
    """Squared differences of two features with normalized vectors, averaged over the positions.

    (B, C, H, W) twice -> (B, C, 1, 1), all float32. Gradients flow to the first one only. Memory bandwidth is the
    bottleneck, and this reads and writes the features a third as often as PyTorch's autograd would.
    """

    @staticmethod
    def forward(context: Any, feature: Tensor, other: Tensor) -> Tensor:
        length = _length(feature)
        scale = 1 / (length + LENGTH_FLOOR)
        # addcmul rounds differently, so that equal features would have a difference
        difference = (feature * scale).sub_(other * (1 / (_length(other) + LENGTH_FLOOR)))
        context.save_for_backward(feature, difference, length, scale)
        return difference.square().mean((2, 3), keepdim=True)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        feature, difference, length, scale = context.saved_tensors
        unit_grad = difference * (gradient * 2 / feature[0, 0].numel())
        # the derivative of the normalization
        along = (feature * unit_grad).sum(1, keepdim=True) * scale.square() / length
        return unit_grad.mul_(scale).addcmul_(feature, along, value=-1), None


def _length(feature: Tensor) -> Tensor:
    """Length of the vector at each position: (B, 1, H, W)."""
    # the derivative of the root is infinite at zero
    return (feature.square().sum(1, keepdim=True) + LENGTH_FLOOR**2).sqrt()


def find_vgg16(path: Path | None) -> Path:
    """Return the path of VGG16's weights: `path`, or by default in torch's cache, downloaded if necessary.

    Raises `UserError` if they are missing.
    """
    remedy = (
        f"set perceptual.vgg16 to the path of torchvision's {VGG16.name} ({VGG16.url}), or disable the perceptual loss "
        "with perceptual.weight=0"
    )
    if path is not None:
        if not path.is_file():
            raise UserError(f"perceptual.vgg16={path} is not a file; {remedy}")
        return path
    try:
        return VGG16.find()
    except UserError as error:
        raise UserError(f"the perceptual loss requires VGG16, but {error}; {remedy}") from None


def _vgg16_weights(path: Path) -> dict[str, Tensor]:
    stored = _read(path)
    weights: dict[str, Tensor] = {}
    for name in _Features().state_dict():
        original = f"features.{name.partition('.')[2]}"
        if original not in stored:
            raise UserError(f"{path} has no tensor {original}; it is not torchvision's VGG16 ({VGG16.name})")
        weights[f"net.{name}"] = stored[original]
    return weights


def _channel_weights() -> dict[str, Tensor]:
    # without importing the package
    package = importlib.util.find_spec("lpips")
    if package is None or package.origin is None:
        raise UserError(
            "the perceptual loss requires the channel weights of the lpips package, which is not installed; "
            "pip install lpips, or disable the loss with perceptual.weight=0"
        )
    return _read(Path(package.origin).parent / "weights" / "v0.1" / "vgg.pth")


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        weights: dict[str, Tensor] = safetensors.torch.load_file(path)
    else:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    return weights
