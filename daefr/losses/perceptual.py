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
# of images in [-1, 1]: ImageNet's mean and deviation, moved to that range
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
LENGTH_FLOOR = 1e-10
VGG16 = Published(
    name="vgg16-397923af.pth", url="https://download.pytorch.org/models/vgg16-397923af.pth", sha256="397923af"
)


class PerceptualLoss(nn.Module):
    """Distance of two images as VGG16 sees them: 0 for equal images, larger the more different they look.

    Frozen, and always in eval mode. State-dict keys as under ``loss.perceptual_loss.`` in the released checkpoints.
    The weights are random until `load` or `load_state_dict` fills them.
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
        """Build the loss from torchvision's VGG16 and the channel weights that the `lpips` package carries.

        Args:
            vgg16: torchvision's state dict, ``.pth`` or ``.safetensors``, whose classifier is not used; without
                it, the usual download (see `find_vgg16`).

        Raises:
            UserError: when a file is missing or does not hold these weights.

        """
        loss = cls()
        features = _vgg16_weights(find_vgg16(vgg16))
        loss.load_state_dict(loss.scaling_layer.state_dict(prefix="scaling_layer.") | features | _channel_weights())
        return loss

    def train(self, mode: bool = True) -> "PerceptualLoss":  # noqa: ARG002 - the signature is PyTorch's
        """Stay in eval mode: a frozen network, whatever the mode of the module around it."""
        return super().train(mode=False)

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Return the distance (B,) of each image to its target; gradients flow to `image` alone.

        Args:
            image: (B, 3, H, W), RGB in [-1, 1].
            target: likewise.

        """
        with torch.no_grad():
            target_features = self.net(self.scaling_layer(target))
        image_features = self.net(self.scaling_layer(image))
        # under autocast the features may be coarse, their distances not
        with torch.autocast(image.device.type, enabled=False):
            distances = [
                # channel weights and mean over positions are both linear: the mean first, as it leaves less to weigh
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
        """From [-1, 1] to what VGG16 was trained on."""
        return (image - self.shift) / self.scale


class _Features(nn.Module):
    """The convolutions of VGG16 in five slices; a layer's name is its number in torchvision's `features`."""

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
    """How much each channel counts: (B, C, 1, 1) -> (B, 1, 1, 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # number 0 is a dropout while LPIPS itself is trained, hence the name "model.1" of the weight
        self.model = nn.Sequential()
        self.model.add_module("1", nn.Conv2d(channels, 1, kernel_size=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)  # type: ignore[no-any-return]


class _Distance(torch.autograd.Function):
    """Squared differences of two features, each position's vector at length 1, averaged over the positions.

    (B, C, H, W) twice -> (B, C, 1, 1), all float32. Gradients flow to the first alone. Features are large and the speed
    of memory is the limit: this takes a third of the passes over them that PyTorch's own derivatives would.
    """

    @staticmethod
    def forward(context: Any, feature: Tensor, other: Tensor) -> Tensor:
        length = _length(feature)
        scale = 1 / (length + LENGTH_FLOOR)
        # not addcmul, which rounds once: equal features differ by nothing
        difference = (feature * scale).sub_(other * (1 / (_length(other) + LENGTH_FLOOR)))
        context.save_for_backward(feature, difference, length, scale)
        return difference.square().mean((2, 3), keepdim=True)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        feature, difference, length, scale = context.saved_tensors
        unit_grad = difference * (gradient * 2 / feature[0, 0].numel())
        # as a longer vector has a shorter unit
        along = (feature * unit_grad).sum(1, keepdim=True) * scale.square() / length
        return unit_grad.mul_(scale).addcmul_(feature, along, value=-1), None


def _length(feature: Tensor) -> Tensor:
    """Length of the vector at each position: (B, 1, H, W)."""
    # a floor inside the root: where no channel fires, its slope would be infinite
    return (feature.square().sum(1, keepdim=True) + LENGTH_FLOOR**2).sqrt()


def find_vgg16(path: Path | None) -> Path:
    """Return where VGG16's weights are: at `path`, or without one in torch's cache, downloaded and checked if need be.

    Raises `UserError` when they are not there and cannot be had.
    """
    remedy = (
        f"give the path of torchvision's {VGG16.name} ({VGG16.url}) as perceptual.vgg16, "
        "or turn the term off with perceptual.weight=0"
    )
    if path is not None:
        if not path.is_file():
            raise UserError(f"the perceptual term finds no VGG16 at {path}: {remedy}")
        return path
    try:
        return VGG16.find()
    except UserError as error:
        raise UserError(f"the perceptual term needs VGG16, but {error}: {remedy}") from None


def _vgg16_weights(path: Path) -> dict[str, Tensor]:
    stored = _read(path)
    weights: dict[str, Tensor] = {}
    for name in _Features().state_dict():
        original = f"features.{name.partition('.')[2]}"
        if original not in stored:
            raise UserError(f"{path} has no tensor {original}: it must be torchvision's VGG16 ({VGG16.name})")
        weights[f"net.{name}"] = stored[original]
    return weights


def _channel_weights() -> dict[str, Tensor]:
    # found without importing the package, whose modules this loss does not need
    package = importlib.util.find_spec("lpips")
    if package is None or package.origin is None:
        raise UserError(
            "the perceptual term needs the channel weights of the lpips package, which is not installed: "
            "pip install lpips, or turn the term off with perceptual.weight=0"
        )
    return _read(Path(package.origin).parent / "weights" / "v0.1" / "vgg.pth")


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        weights: dict[str, Tensor] = safetensors.torch.load_file(path)
    else:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    return weights
