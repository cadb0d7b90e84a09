"""The identity loss (GFP-GAN section 3.4): a reconstruction must be the same person to a face recognizer."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daefr.errors import UserError
from daefr.network.arcface import IMAGE_SIDE, ArcFace

ARCFACE_NAME = "arcface_resnet18.pth"
ARCFACE_URL = f"https://github.com/TencentARC/GFPGAN/releases/download/v0.1.0/{ARCFACE_NAME}"
GRAY = (0.2989, 0.5870, 0.1140)
# what saving a network that was wrapped for several GPUs puts before every name
WRAPPED = "module."


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
        """Build the loss from ArcFace's weights, whose shapes tell the network's width.

        Raises:
            UserError: when the file is missing or does not hold these weights.

        """
        weights = _read(find_arcface(path))
        first = weights.get("conv1.weight")
        arcface = ArcFace(len(first)) if first is not None and first.dim() else ArcFace()
        try:
            arcface.load_state_dict(weights)
        except RuntimeError as error:
            problem = str(error).splitlines()[-1].strip()
            raise UserError(f"{path} is not {ARCFACE_NAME}: {problem[:200]}") from None
        return cls(arcface)

    def train(self, mode: bool = True) -> "IdentityLoss":  # noqa: ARG002 - the signature is PyTorch's
        """Stay in eval mode: this network is a yardstick, whatever mode the module around it is in."""
        return super().train(mode=False)

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Return the loss (B,) of each image; gradients flow to `image` alone.

        Args:
            image: (B, 3, H, W), RGB in [-1, 1].
            target: likewise.

        """
        with torch.no_grad():
            wanted = self.arcface(_gray(target))
        return 1 - F.cosine_similarity(self.arcface(_gray(image)).float(), wanted.float())


def find_arcface(path: Path | None) -> Path:
    """Return where ArcFace's weights are; raises `UserError` when they are not there."""
    if path is not None and path.is_file():
        return path
    place = f"finds no ArcFace at {path}" if path is not None else "needs the weights of ArcFace"
    raise UserError(
        f"the identity term {place}: download {ARCFACE_NAME} from {ARCFACE_URL} and give its path as "
        "identity.arcface, or turn the term off with identity.weight=0"
    )


def _gray(image: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 1, 128, 128)."""
    weights = image.new_tensor(GRAY).view(1, 3, 1, 1)
    gray = (image * weights).sum(1, keepdim=True)
    return F.interpolate(gray, (IMAGE_SIDE, IMAGE_SIDE), mode="bilinear", align_corners=False)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a damaged or hostile file makes the unpickler raise anything
        raise UserError(f"{path} is not {ARCFACE_NAME}: it is damaged, or holds more than tensors") from None
    if not isinstance(stored, dict) or not all(isinstance(tensor, Tensor) for tensor in stored.values()):
        raise UserError(f"{path} is not {ARCFACE_NAME}: it is no mapping of names to tensors")
    return {str(name).removeprefix(WRAPPED): tensor for name, tensor in stored.items()}
