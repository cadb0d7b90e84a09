"""IDA, the angle between two faces as a face recognizer sees them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from daefr.losses.identity import gray_face
from daefr.metrics.base import as_fed
from daefr.network.arcface import ArcFace
from daefr.settings.metrics import Protocol
from daefr.tensors import to_float64


class IdentityAngle:
    """The angle in radians between the ArcFace embeddings of two faces: 0 for the same, at most pi.

    ArcFace sees gray faces of 128x128 pixels. The paper's script weighs the channels in BGR order and leaves the faces
    in [0, 1]; the standard protocol gives it what it was trained on, and what the identity loss gives it: RGB, in
    [-1, 1].
    """

    def __init__(self, network: ArcFace, protocol: Protocol) -> None:
        """Take a network whose weights are filled, on the device of the images."""
        self._network, self._protocol = network.eval(), protocol

    def __call__(self, restored: Tensor, target: Tensor) -> Tensor:
        """Measure (B, 3, H, W) uint8 RGB: (B,)."""
        return angle(self._embed(restored), self._embed(target))

    def _embed(self, images: Tensor) -> Tensor:
        faces = as_fed(images, self._protocol, centered=self._protocol == "standard")
        embedding: Tensor = self._network(gray_face(faces))
        return embedding


def angle(first: Tensor, second: Tensor) -> Tensor:
    """Return the angle (B,) between vectors (B, C): exact where the arc cosine, near 0 and pi, is not (Kahan)."""
    one, other = F.normalize(to_float64(first)), F.normalize(to_float64(second))
    return 2 * torch.atan2((one - other).norm(dim=1), (one + other).norm(dim=1))
