"""The facial-component loss: discriminators for crops of eyes and mouth (GFP-GAN section 3.4).

It is off in the released recipe; the defaults of `ComponentsConfig` are those of related methods.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from daefr.faces.components import COMPONENTS
from daefr.losses.logistic import logistic_discriminator_loss, logistic_generator_loss
from daefr.losses.style import style_loss
from daefr.network.component_discriminator import ComponentDiscriminator, DiscriminatorOutput
from daefr.settings.faces import CROP_SIDE
from daefr.settings.network import NetworkConfig
from daefr.settings.training import ComponentsConfig
from daefr.stages.base import Loss

PREFIX = "discriminator.components."
"""Of the names in a checkpoint, followed by branch and component."""


class ComponentDiscriminators(nn.ModuleDict):
    """Three discriminators per branch: left eye, right eye and mouth."""

    def __init__(self, branches: Sequence[str], network: NetworkConfig, config: ComponentsConfig) -> None:
        super().__init__(
            {
                branch: nn.ModuleDict({name: ComponentDiscriminator(network.discriminator) for name in COMPONENTS})
                for branch in branches
            }
        )
        self._config = config
        scale = network.autoencoder.resolution / CROP_SIDE
        sides = {"left_eye": config.eye_crop_size, "right_eye": config.eye_crop_size, "mouth": config.mouth_crop_size}
        self._sides = {name: max(1, round(side * scale)) for name, side in sides.items()}

    def forward(
        self, real: Mapping[str, Tensor], generated: Mapping[str, Tensor], boxes: Tensor
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the scores of (real, generated) crops by `BRANCH.COMPONENT`, for the discriminators' losses."""
        scores = {}
        for branch in self:
            crops = zip(self.crop(real[branch], boxes), self.crop(generated[branch], boxes), strict=True)
            for name, pair in zip(COMPONENTS, crops, strict=True):
                discriminator = self.get_submodule(f"{branch}.{name}")
                scores[f"{branch}.{name}"] = (discriminator(pair[0]).scores, discriminator(pair[1]).scores)
        return scores

    def discriminator_losses(self, branch: str, scores: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """Return the loss of each component of a branch, from the scores of `forward`."""
        return {
            f"{name}_discriminator": logistic_discriminator_loss(*scores[f"{branch}.{name}"]) for name in COMPONENTS
        }

    def generator_loss(self, branch: str, image: Tensor, target: Tensor, boxes: Tensor) -> Loss:
        """Return the weighted adversarial and style losses of a branch's image; gradients flow to `image` only."""
        terms: dict[str, Tensor] = {}
        crops = zip(COMPONENTS, self.crop(image, boxes), self.crop(target, boxes), strict=True)
        styles: list[Tensor] = []
        for name, crop, real in crops:
            output = self._score_frozen(branch, name, crop)
            terms[f"{name}_generator"] = logistic_generator_loss(output.scores)
            if self._config.style_weight:
                with torch.no_grad():
                    target_output = self._score_frozen(branch, name, real)
                styles.append(style_loss(output.features, target_output.features))
        total = self._config.weight * torch.stack(list(terms.values())).sum()
        if styles:
            terms["style"] = torch.stack(styles).sum()
            total = total + self._config.style_weight * terms["style"]
        return Loss(total, {name: term.detach() for name, term in terms.items()})

    def crop(self, image: Tensor, boxes: Tensor) -> list[Tensor]:
        """Crop every component of images (B, 3, R, R) at its box (B, 3, 4): each (B, 3, S, S), S its side."""
        from torchvision.ops import roi_align  # noqa: PLC0415  # takes seconds to import, and is usually not needed

        number = torch.arange(len(image), device=image.device, dtype=boxes.dtype)[:, None]
        return [
            roi_align(image.float(), torch.cat([number, boxes[:, index]], dim=1), self._sides[name], aligned=True)
            for index, name in enumerate(COMPONENTS)
        ]

    def _score_frozen(self, branch: str, name: str, crop: Tensor) -> DiscriminatorOutput:
        """Score a crop with gradients to the crop only."""
        discriminator = self.get_submodule(f"{branch}.{name}")
        frozen = {key: parameter.detach() for key, parameter in discriminator.named_parameters()}
        output: DiscriminatorOutput = torch.func.functional_call(discriminator, frozen, (crop,))
        return output


def without_components(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a checkpoint's tensors without its component discriminators."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)}


def match_components(tensors: Mapping[str, Tensor], initial: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of earlier stages with the component discriminators that the `initial` weights of a stage have.

    If the stage has component discriminators, each branch gets its earlier ones, or else its initial ones; if it has
    none, the earlier ones are dropped.
    """
    branches = {name.removeprefix(PREFIX).partition(".")[0] for name in initial if name.startswith(PREFIX)}
    matched = without_components(tensors)
    for branch in branches:
        prefix = f"{PREFIX}{branch}."
        earlier = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        matched |= earlier or {name: tensor for name, tensor in initial.items() if name.startswith(prefix)}
    return matched
