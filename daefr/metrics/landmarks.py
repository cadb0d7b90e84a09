"""LMD, the distance of facial landmarks."""

from pathlib import Path

import torch
import torch.nn.functional as F
from facexlib.alignment.awing_arch import FAN
from torch import Tensor, nn

from daefr.published import Published
from daefr.tensors import to_float64

AWING_FAN = Published(
    name="alignment_WFLW_4HG.pth",
    url="https://github.com/xinntao/facexlib/releases/download/v0.1.0/alignment_WFLW_4HG.pth",
    sha256="bbfd137307a4c7debd5c283b9b0ce539466cee417ac0a155e184d857f9f2899c",
)
HOURGLASSES, LANDMARKS = 4, 98
INPUT_SIDE, HEATMAP_SIDE = 256, 64


class LandmarkDistance:
    """The mean distance in pixels between the 98 landmarks of two faces, as AWing-FAN finds them (Wang et al. 2019)."""

    def __init__(self, network: nn.Module) -> None:
        """Take facexlib's network with its weights filled, on the device of the images."""
        self._network = network.eval()

    @classmethod
    def load(cls, path: Path, device: torch.device) -> "LandmarkDistance":
        """Read AWing-FAN's weights. Raises `UserError` when the file does not hold them."""
        network = FAN(num_modules=HOURGLASSES, num_landmarks=LANDMARKS, device=device)
        AWING_FAN.fill(network, AWING_FAN.tensors(path, under="state_dict"), path)
        return cls(network.to(device))

    def __call__(self, restored: Tensor, target: Tensor) -> Tensor:
        """Measure (B, 3, H, W) uint8 RGB: (B,)."""
        distances: Tensor = (self.landmarks(restored) - self.landmarks(target)).norm(dim=2)
        return distances.mean(1)

    def landmarks(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB -> (B, 98, 2): x and y of each landmark in pixels of the image."""
        height, width = images.shape[-2:]
        side = (INPUT_SIDE, INPUT_SIDE)
        # rounded to 8 bits, as OpenCV resizes an 8-bit image
        small = F.interpolate(images.float(), side, mode="bilinear", align_corners=False).add(0.5).floor() / 255
        heatmaps = self._network(small)[0][-1][:, :LANDMARKS]
        points = peaks(to_float64(heatmaps))
        return points * torch.tensor([width, height], device=points.device) / HEATMAP_SIDE


def peaks(heatmaps: Tensor) -> Tensor:
    """Find the highest place of each heatmap, (B, N, S, S) -> (B, N, 2) float64: x and y in its pixels, to a quarter.

    From the highest pixel's middle, a quarter towards the higher of its neighbours on either axis. What facexlib does
    at the edge, it does to all landmarks of a face if one is there: a neighbour beyond the top or the bottom then is
    the first or the last pixel of all.
    """
    side = heatmaps.shape[-1]
    flat = heatmaps.flatten(2)
    last = flat.shape[2] - 1
    best = flat.argmax(2)

    def value(places: Tensor) -> Tensor:
        return flat.gather(2, (places % (last + 1)).unsqueeze(2)).squeeze(2)

    below, above = best + side, best - side
    below = torch.where((below > last).any(1, keepdim=True), last, below)
    above = torch.where((above <= 0).any(1, keepdim=True), 0, above)
    horizontal = (value(best + 1) - value(best - 1)).sign()
    vertical = (value(below) - value(above)).sign()
    middle = torch.stack([best % side, best // side], dim=2) + 0.5
    return to_float64(middle) + torch.stack([horizontal, vertical], dim=2) / 4
