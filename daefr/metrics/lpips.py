"""LPIPS as a measure (Zhang et al. 2018, version 0.1, VGG16)."""

from torch import Tensor

from daefr.losses.perceptual import PerceptualLoss
from daefr.metrics.base import as_fed
from daefr.settings.metrics import Protocol


class Lpips:
    """How different two images look to VGG16: 0 for the same.

    The paper's script feeds it BGR, and prints two values: on [-1, 1] (`centered`), which is the network's range, and
    on [0, 1]. The standard protocol feeds it RGB in [-1, 1].
    """

    def __init__(self, network: PerceptualLoss, protocol: Protocol, *, centered: bool = True) -> None:
        """Take a network whose weights are filled, on the device of the images."""
        self._network, self._protocol, self._centered = network, protocol, centered

    def __call__(self, restored: Tensor, target: Tensor) -> Tensor:
        """Measure (B, 3, H, W) uint8 RGB, at least 16 pixels a side, as VGG16 halves them four times: (B,)."""
        seen, wanted = (as_fed(images, self._protocol, centered=self._centered) for images in (restored, target))
        distance: Tensor = self._network(seen, wanted)
        return distance
