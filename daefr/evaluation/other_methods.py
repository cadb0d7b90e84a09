"""Methods of others, from the weights that their authors released, through spandrel's networks."""

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
# as papers call them, which is what spandrel calls their architectures too
METHOD_TITLES: dict[MethodName, str] = {
    "gfpgan": "GFP-GAN",
    "restoreformer": "RestoreFormer",
    "codeformer": "CodeFormer",
}
EXTRA_PACKAGE = "spandrel_extra_arches"
WEIGHT_SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")
INPUT_SIDE = 512
TRAINED = "vqvae."


class OtherMethod:
    """GFP-GAN, RestoreFormer or CodeFormer, as their authors' scripts run them: 512x512 pixels, RGB in [-1, 1].

    CodeFormer's fidelity weight is that of its script, 0.5. GFP-GAN draws noise: its seed is the image's content, so
    that a face is always restored to the same one.
    """

    resolution = INPUT_SIDE
    codes = None  # they have codebooks, but spandrel does not tell which codes were chosen

    def __init__(self, network: torch.nn.Module, device: torch.device) -> None:
        """Use a network of spandrel's with its weights filled."""
        self._network, self._device = network.to(device).eval(), device

    @staticmethod
    def title(method: MethodName) -> str:
        """Return what tables call a method."""
        return METHOD_TITLES[method]

    @staticmethod
    def check(method: MethodName, weights: Path) -> None:
        """Raise `UserError` unless the weights exist, and the library that knows their network."""
        if weights.suffix not in WEIGHT_SUFFIXES or not weights.is_file():
            raise UserError(
                f"{weights} is not there; give the released weights of {METHOD_TITLES[method]} ({WEIGHT_SUFFIXES[0]})"
            )
        if method == "codeformer" and importlib.util.find_spec(EXTRA_PACKAGE) is None:
            raise UserError(
                f"CodeFormer needs the package {EXTRA_PACKAGE}, whose license forbids commercial use: "
                "install it by hand if yours is none"
            )

    @classmethod
    def load(cls, method: MethodName, weights: Path, device: torch.device) -> "OtherMethod":
        """Read released weights; no code in the file is run. Raises `UserError` when they are not the method's."""
        import spandrel  # noqa: PLC0415  # loads every architecture it knows

        cls.check(method, weights)
        if method == "codeformer":
            importlib.import_module(EXTRA_PACKAGE).install(ignore_duplicates=True)
        tensors = spandrel.canonicalize_state_dict(_without_training(read_tensors(weights)))
        try:
            found = spandrel.ModelLoader().load_from_state_dict(tensors)
        except Exception as error:  # what fits no architecture makes spandrel raise anything
            raise UserError(
                f"{weights} does not hold the weights of {METHOD_TITLES[method]}: {one_line(error, 200)}"
            ) from None
        if not isinstance(found, spandrel.ImageModelDescriptor) or found.architecture.id.lower() != method:
            raise UserError(f"{weights} holds {found.architecture.name}, where {METHOD_TITLES[method]} was asked for")
        return cls(found.model, device)

    @torch.no_grad()
    def restore(self, images: Sequence[Image]) -> list[MethodOutput]:
        """See `Method`. One at a time: the noise of a face must not depend on who shares its batch."""
        return [MethodOutput(to_image(self._restore(image))) for image in images]

    def _restore(self, image: Image) -> Tensor:
        seed = int.from_bytes(hashlib.sha256(image.tobytes()).digest()[:8])
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            # its own call: spandrel's scales images as not all of these networks want them
            with evaluation_precision(self._device):
                restored: Tensor = self._network(to_tensor(image)[None].to(self._device))[0]
        return restored[0]


def _without_training(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take the network out of a training's checkpoint, as RestoreFormer's authors released it."""
    inner = {name.removeprefix(TRAINED): each for name, each in weights.items() if name.startswith(TRAINED)}
    return inner or weights
