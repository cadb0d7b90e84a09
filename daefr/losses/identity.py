"""The identity loss (GFP-GAN section 3.4): a reconstruction must be the same person to a face recognizer."""

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

    Frozen, and always in eval mode. As in the family, the network sees gray faces (0.2989 R + 0.5870 G + 0.1140 B)
    in [-1, 1], brought to 128x128 pixels by bilinear sampling; the cosine takes the place of the family's L1 distance,
    which grows with the embeddings' length.
    """

    def __init__(self, arcface: ArcFace) -> None:
        super().__init__()
        self.arcface = arcface
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def load(cls, path: Path | None) -> "IdentityLoss":
        """Build the loss from ArcFace's weights. Raises `UserError` when they are missing, or others."""
        return cls(load_arcface(find_arcface(path)))

    def train(self, mode: bool = True) -> "IdentityLoss":  # noqa: ARG002 - the signature is PyTorch's
        """Stay in eval mode: a frozen network, whatever the mode of the module around it."""
        return super().train(mode=False)

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Return the loss (B,) of each image; gradients flow to `image` alone.

        Args:
            image: (B, 3, H, W), RGB in [-1, 1].
            target: likewise.

        """
        with torch.no_grad():
            wanted = self.arcface(gray_face(target))
        return 1 - F.cosine_similarity(self.arcface(gray_face(image)).float(), wanted.float())


def find_arcface(path: Path | None) -> Path:
    """Return where ArcFace's weights are; raises `UserError` when they are not there."""
    if path is not None and path.is_file():
        return path
    place = f"finds no ArcFace at {path}" if path is not None else "needs the weights of ArcFace"
    raise UserError(
        f"the identity term {place}: download {ARCFACE.name} from {ARCFACE.url} and give its path as "
        "identity.arcface, or turn the term off with identity.weight=0"
    )


def load_arcface(path: Path) -> ArcFace:
    """Build ArcFace from its weights, whose shapes tell its width.

    Raises:
        UserError: when the file does not hold these weights.

    """
    # saved from a network that was wrapped for several GPUs, which shows in every name
    weights = {name.removeprefix("module."): tensor for name, tensor in ARCFACE.tensors(path).items()}
    first = weights.get("conv1.weight")
    arcface = ArcFace(len(first)) if first is not None and first.dim() else ArcFace()
    ARCFACE.fill(arcface, weights, path)
    return arcface


def gray_face(image: Tensor) -> Tensor:
    """Turn color into what ArcFace sees: (B, 3, H, W) RGB -> (B, 1, 128, 128), in the same range."""
    # numbers rather than a tensor, which would have to be copied to the image's device, with a wait for it
    red, green, blue = GRAY
    gray = red * image[:, 0:1] + green * image[:, 1:2] + blue * image[:, 2:3]
    return F.interpolate(gray, (IMAGE_SIDE, IMAGE_SIDE), mode="bilinear", align_corners=False)
