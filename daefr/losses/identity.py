"""The identity loss (GFP-GAN section 3.4), which compares the ArcFace embeddings of faces."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daefr.errors import UserError
from daefr.network.arcface import IMAGE_SIDE, ArcFace
from daefr.published import Published

ARCFACE = Published(
    name="arcface_resnet18.pth",
    url="https://github.com/TencentARC/GFPGAN/releases/download/v0.1.0/arcface_resnet18.pth",
    sha256=None,
)
GRAY = (0.2989, 0.5870, 0.1140)


class IdentityLoss(nn.Module):
    """1 - cosine of the ArcFace embeddings of two faces: 0 for the same person, at most 2.

    Frozen, and always in eval mode. As in related methods, the network's input is a gray face (0.2989 R + 0.5870 G +
    0.1140 B) in [-1, 1], resized to 128x128 pixels bilinearly. Their L1 distance, which grows with the length of the
    embeddings, is replaced by the cosine.
    """

    def __init__(self, arcface: ArcFace) -> None:
        super().__init__()
        self.arcface = arcface
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def load(cls, path: Path | None) -> "IdentityLoss":
        """Build the loss from ArcFace's weights. Raises `UserError` if they are missing or wrong."""
        return cls(load_arcface(find_arcface(path)))

    def train(self, mode: bool = True) -> "IdentityLoss":  # noqa: ARG002 - the signature is PyTorch's
        """Stay in eval mode, because the network is frozen."""
        return super().train(mode=False)

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Return the loss (B,) of each image; gradients flow to `image` only.

        Args:
            image: (B, 3, H, W), RGB in [-1, 1].
            target: likewise.

        """
        with torch.no_grad():
            expected = self.arcface(gray_face(target))
        return 1 - F.cosine_similarity(self.arcface(gray_face(image)).float(), expected.float())


def find_arcface(path: Path | None) -> Path:
    """Return the path of ArcFace's weights. Raises `UserError` if they are missing."""
    if path is not None and path.is_file():
        return path
    problem = f"identity.arcface={path} is not a file" if path is not None else "the identity loss requires ArcFace"
    raise UserError(
        f"{problem}; download {ARCFACE.name} from {ARCFACE.url} and set identity.arcface to its path, or disable the "
        "loss with identity.weight=0"
    )


def load_arcface(path: Path) -> ArcFace:
    """Build ArcFace from its weights, with the width inferred from their shapes.

    Raises:
        UserError: if the file does not contain these weights.

    """
    # saved from a network wrapped in DataParallel
    weights = {name.removeprefix("module."): tensor for name, tensor in ARCFACE.tensors(path).items()}
    first = weights.get("conv1.weight")
    arcface = ArcFace(len(first)) if first is not None and first.dim() else ArcFace()
    ARCFACE.fill(arcface, weights, path)
    return arcface


def gray_face(image: Tensor) -> Tensor:
    """Convert images to ArcFace's input: (B, 3, H, W) RGB -> (B, 1, 128, 128), in the same range."""
    # a tensor of weights would have to be copied to the device, which the host would wait for
    red, green, blue = GRAY
    gray = red * image[:, 0:1] + green * image[:, 1:2] + blue * image[:, 2:3]
    return F.interpolate(gray, (IMAGE_SIDE, IMAGE_SIDE), mode="bilinear", align_corners=False)
