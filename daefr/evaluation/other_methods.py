"""Other methods, with the weights that their authors released and the networks of spandrel."""

import hashlib
import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from daefr.errors import UserError, one_line
from daefr.evaluation.method import MethodOutput
from daefr.images import Image
from daefr.precision import evaluation_precision
from daefr.released import read_tensors
from daefr.tensors import to_image, to_tensor

MethodName = Literal["gfpgan", "restoreformer", "codeformer"]
METHODS: tuple[MethodName, ...] = get_args(MethodName)
# the names used in papers, and by spandrel for the architectures
METHOD_TITLES: dict[MethodName, str] = {
    "gfpgan": "GFP-GAN",
    "restoreformer": "RestoreFormer",
    "codeformer": "CodeFormer",
}
EXTRA_PACKAGE = "spandrel_extra_arches"
WEIGHT_SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")
INPUT_SIDE = 512
NETWORK_PREFIX = "vqvae."


class OtherMethod:
    """GFP-GAN, RestoreFormer or CodeFormer, run like their authors' scripts: 512x512 pixels, RGB in [-1, 1].

    CodeFormer's fidelity weight is 0.5, as in its script. GFP-GAN's noise is seeded with the image's content, so that
    results are reproducible.
    """

    resolution = INPUT_SIDE
    codes = None  # spandrel does not return the codes

    def __init__(self, network: torch.nn.Module, device: torch.device) -> None:
        """Use a spandrel network with loaded weights."""
        self._network, self._device = network.to(device).eval(), device

    @staticmethod
    def title(method: MethodName) -> str:
        """Return a method's name for tables."""
        return METHOD_TITLES[method]

    @staticmethod
    def check(method: MethodName, weights: Path) -> None:
        """Raise `UserError` if the weights, or the package that the network needs, are missing."""
        if weights.suffix not in WEIGHT_SUFFIXES or not weights.is_file():
            raise UserError(
                f"{weights} is not a weights file ({', '.join(WEIGHT_SUFFIXES)}); give the released weights of "
                f"{METHOD_TITLES[method]}"
            )
        if method == "codeformer" and importlib.util.find_spec(EXTRA_PACKAGE) is None:
            raise UserError(
                f"CodeFormer requires the package {EXTRA_PACKAGE}; its license forbids commercial use, so it is not "
                "installed automatically"
            )

    @classmethod
    def load(cls, method: MethodName, weights: Path, device: torch.device) -> "OtherMethod":
        """Read released weights without running code in the file. Raises `UserError` if they are not the method's."""
        import spandrel  # noqa: PLC0415  # slow: imports every architecture

        cls.check(method, weights)
        if method == "codeformer":
            importlib.import_module(EXTRA_PACKAGE).install(ignore_duplicates=True)
        tensors = spandrel.canonicalize_state_dict(_select_network(read_tensors(weights)))
        try:
            found = spandrel.ModelLoader().load_from_state_dict(tensors)
        except Exception as error:  # spandrel can raise anything if no architecture matches
            raise UserError(
                f"{weights} does not contain weights of {METHOD_TITLES[method]}: {one_line(error, 200)}"
            ) from None
        if not isinstance(found, spandrel.ImageModelDescriptor) or found.architecture.id.lower() != method:
            raise UserError(f"{weights} contains {found.architecture.name}, not {METHOD_TITLES[method]}")
        return cls(found.model, device)

    @torch.no_grad()
    def restore(self, images: Sequence[Image]) -> list[MethodOutput]:
        """See `Method`. Faces are restored one at a time, so that noise does not depend on the rest of the batch."""
        return [MethodOutput(to_image(self._restore(image))) for image in images]

    def _restore(self, image: Image) -> Tensor:
        seed = int.from_bytes(hashlib.sha256(image.tobytes()).digest()[:8])
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            # called directly, because spandrel's wrapper scales images differently from some of these networks
            with evaluation_precision(self._device):
                restored: Tensor = self._network(to_tensor(image)[None].to(self._device))[0]
        return restored[0]


def _select_network(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the network's weights if `weights` is a training checkpoint, as RestoreFormer's release is."""
    prefix = NETWORK_PREFIX
    return {name.removeprefix(prefix): each for name, each in weights.items() if name.startswith(prefix)} or weights
