"""The facial-component term: crops of eyes and mouth, a discriminator for each, and their losses (GFP-GAN 3.4).

Off in the released recipe. The other members of the family crop the same way and weigh it as `ComponentsConfig` says.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from daefr.faces.components import COMPONENTS
from daefr.losses.logistic import logistic_discriminator_loss, logistic_generator_loss
from daefr.losses.style import style_loss
from daefr.network.component_discriminator import ComponentDiscriminator, Judged
from daefr.settings.faces import CROP_SIDE
from daefr.settings.network import NetworkConfig
from daefr.settings.training import ComponentsConfig
from daefr.stages.base import Loss

PREFIX = "discriminator.components."
"""Of the names in a checkpoint, which go on with branch and component."""


class ComponentDiscriminators(nn.ModuleDict):
    """Three discriminators a branch: left eye, right eye and mouth."""

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
        """Return the scores of (real, generated) crops by `BRANCH.COMPONENT`, for the discriminators' own turn."""
        scores = {}
        for branch in self:
            crops = zip(self.crop(real[branch], boxes), self.crop(generated[branch], boxes), strict=True)
            for name, pair in zip(COMPONENTS, crops, strict=True):
                critic = self.get_submodule(f"{branch}.{name}")
                scores[f"{branch}.{name}"] = (critic(pair[0]).scores, critic(pair[1]).scores)
        return scores

    def discriminator_losses(self, branch: str, scores: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """Return one loss a component of a branch, from what `forward` returned."""
        return {
            f"{name}_discriminator": logistic_discriminator_loss(*scores[f"{branch}.{name}"]) for name in COMPONENTS
        }

    def generator_loss(self, branch: str, image: Tensor, target: Tensor, boxes: Tensor) -> Loss:
        """Return the weighted adversarial and style losses of a branch's image; gradients flow to `image` alone."""
        terms: dict[str, Tensor] = {}
        crops = zip(COMPONENTS, self.crop(image, boxes), self.crop(target, boxes), strict=True)
        styles: list[Tensor] = []
        for name, crop, real in crops:
            judged = self._judge_frozen(branch, name, crop)
            terms[f"{name}_generator"] = logistic_generator_loss(judged.scores)
            if self._config.style_weight:
                with torch.no_grad():
                    wanted = self._judge_frozen(branch, name, real)
                styles.append(style_loss(judged.features, wanted.features))
        total = self._config.weight * torch.stack(list(terms.values())).sum()
        if styles:
            terms["style"] = torch.stack(styles).sum()
            total = total + self._config.style_weight * terms["style"]
        return Loss(total, {name: term.detach() for name, term in terms.items()})

    def crop(self, image: Tensor, boxes: Tensor) -> list[Tensor]:
        """Cut every component out of images (B, 3, R, R) at its box (B, 3, 4): each (B, 3, S, S), S its side."""
        from torchvision.ops import roi_align  # noqa: PLC0415  # takes seconds to import, for a term usually off

        number = torch.arange(len(image), device=image.device, dtype=boxes.dtype)[:, None]
        return [
            roi_align(image.float(), torch.cat([number, boxes[:, index]], dim=1), self._sides[name], aligned=True)
            for index, name in enumerate(COMPONENTS)
        ]

    def _judge_frozen(self, branch: str, name: str, crop: Tensor) -> Judged:
        """Judge a crop with gradients to the crop alone: the discriminator learns in its own turn."""
        critic = self.get_submodule(f"{branch}.{name}")
        frozen = {key: parameter.detach() for key, parameter in critic.named_parameters()}
        judged: Judged = torch.func.functional_call(critic, frozen, (crop,))
        return judged


def without_components(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a checkpoint's tensors but for its component discriminators."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)}


def match_components(tensors: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return earlier stages' tensors with the component discriminators that the new stage's `fresh` weights have.

    Those come and go with their term. Where the new stage has it, a branch takes over its earlier discriminators, or
    keeps its fresh ones if there are none; where it has not, the earlier ones are left behind.
    """
    wanted = {name.removeprefix(PREFIX).partition(".")[0] for name in fresh if name.startswith(PREFIX)}
    matched = without_components(tensors)
    for branch in wanted:
        prefix = f"{PREFIX}{branch}."
        earlier = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        matched |= earlier or {name: tensor for name, tensor in fresh.items() if name.startswith(prefix)}
    return matched
