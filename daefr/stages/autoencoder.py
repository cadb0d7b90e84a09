"""Stages 1a, 1b and 2: one autoencoder, or two that are associated, with discriminators (paper 3.1 and 3.2)."""

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from daefr.data.dataset import Batch, Part
from daefr.losses.adversarial import adaptive_weight, discriminator_loss, generator_loss, with_gradient
from daefr.losses.contrastive import contrastive_loss
from daefr.losses.identity import IdentityLoss
from daefr.losses.perceptual import PerceptualLoss
from daefr.network.discriminator import Discriminator
from daefr.network.quantizer import count_codes
from daefr.network.vqgan import VQGAN, VQGANOutput
from daefr.ranks import broadcast, concatenate, total
from daefr.settings.base import StageName
from daefr.settings.network import NetworkConfig
from daefr.settings.training import AssociationTraining, AutoencoderTraining
from daefr.stages.base import Average, Loss, Stage
from daefr.stages.components import ComponentDiscriminators

Outputs = dict[str, VQGANOutput]
Scores = dict[str, tuple[Tensor, Tensor]]


class Autoencoders(nn.ModuleDict):
    """One VQGAN per branch, as one module for distributed training."""

    def branch(self, name: str) -> VQGAN:
        """Return the VQGAN of one branch."""
        vqgan = self[name]
        assert isinstance(vqgan, VQGAN)  # noqa: S101  # for the type checker
        return vqgan

    def forward(self, images: dict[str, Tensor]) -> Outputs:
        """Reconstruct the images of every branch."""
        return {name: vqgan(images[name]) for name, vqgan in self.items()}


class Discriminators(nn.ModuleDict):
    """One discriminator per branch, and optionally those of the facial components."""

    components: ComponentDiscriminators | None

    def __init__(self, branches: dict[str, Discriminator], components: ComponentDiscriminators | None = None) -> None:
        super().__init__(branches)
        self.components = components

    def forward(self, real: dict[str, Tensor], generated: dict[str, Tensor], boxes: Tensor | None = None) -> Scores:
        """Return the scores of (real, generated) images of every branch, in separate batches for the BatchNorm.

        With component discriminators and `boxes`, also those of the crops; see `ComponentDiscriminators`.
        """
        scores = {name: (self[name](real[name]), self[name](generated[name])) for name in real}
        if self.components is not None and boxes is not None:
            scores |= self.components(real, generated, boxes)
        return scores


class AutoencoderStage(Stage):
    """HQ codebook, LQ codebook, or the association of the two."""

    BRANCHES: ClassVar[dict[StageName, tuple[str, ...]]] = {
        "hq_codebook": ("hq",),
        "lq_codebook": ("lq",),
        "association": ("hq", "lq"),
    }
    PARTS: ClassVar[dict[str, Part]] = {"hq": "hq", "lq": "mild"}

    generator: Autoencoders
    discriminator: Discriminators

    def __init__(self, name: StageName, network: NetworkConfig, training: AutoencoderTraining) -> None:
        super().__init__(name, network)
        self._training = training
        self._gather = isinstance(training, AssociationTraining) and training.gather_across_ranks
        self.branches = self.BRANCHES[name]
        self.compares_samples = len(self.branches) > 1
        self.parts = tuple(self.PARTS[branch] for branch in self.branches)
        self.generator = Autoencoders({branch: VQGAN(network.autoencoder) for branch in self.branches})
        discriminators = {branch: Discriminator(network.discriminator) for branch in self.branches}
        components: ComponentDiscriminators | None = None
        if training.components.weight:
            self.parts = (*self.parts, "components")
            components = ComponentDiscriminators(self.branches, network, training.components)
        self.discriminator = Discriminators(discriminators, components)
        if training.adversarial.sync_batchnorm:
            nn.SyncBatchNorm.convert_sync_batchnorm(self.discriminator)  # type: ignore[no-untyped-call]
        self.perceptual: PerceptualLoss | None = None
        if training.perceptual.weight:
            self.perceptual = PerceptualLoss.load(training.perceptual.vgg16)
        self.identity = IdentityLoss.load(training.identity.arcface) if training.identity.weight else None
        for branch in self.branches:
            self.register_buffer(f"counts_{branch}", torch.zeros(network.autoencoder.codes, dtype=torch.int64))

    def is_adversarial(self, step: int) -> bool:
        """See `Stage`: from `adversarial.start_step`, unless the weight is 0."""
        return self._training.adversarial.weight > 0 and step >= self._training.adversarial.start_step

    def generator_input(self, batch: Batch) -> dict[str, Tensor]:
        """See `Stage`."""
        return {branch: batch[branch] for branch in self.branches}

    def generator_loss(self, output: Outputs, batch: Batch, *, adversarial: bool, average: Average) -> Loss:
        """Sum the branches' losses; the association adds the contrastive loss, once (paper equations 1 to 4)."""
        total_loss = torch.zeros((), device=batch[self.branches[0]].device)
        terms: dict[str, Tensor] = {}
        for branch in self.branches:
            loss = self._branch_loss(branch, output[branch], batch[branch], adversarial=adversarial, average=average)
            total_loss = total_loss + loss.total
            terms |= {self._label(branch, name): term for name, term in loss.terms.items()}
            for extra in self._optional_losses(branch, output[branch].reconstruction, batch, adversarial=adversarial):
                total_loss = total_loss + extra.total
                terms |= {self._label(branch, name): term for name, term in extra.terms.items()}
        if len(self.branches) > 1:
            # in validation, a rank has complete batches
            gather = self._gather and self.training
            contrastive, accuracy = contrastive_loss(output["hq"].z, output["lq"].z, gather=gather)
            total_loss = total_loss + contrastive
            terms |= {"contrastive": contrastive.detach(), "association_accuracy": accuracy}
        return Loss(total_loss, terms)

    def _branch_loss(
        self, branch: str, output: VQGANOutput, target: Tensor, *, adversarial: bool, average: Average
    ) -> Loss:
        image = output.reconstruction
        l1 = (image - target).abs().mean()
        terms = {"l1": l1, "quantizer": output.loss}
        reconstruction = l1
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(image, target).mean()
            reconstruction = l1 + self._training.perceptual.weight * terms["perceptual"]
        if adversarial:
            # computed once, for the adaptive weight and for the decoder's backward pass
            (reconstruction_grad,) = torch.autograd.grad(reconstruction, image)
            terms["generator"] = generator_loss(self._score_frozen(branch, image))
            (adversarial_grad,) = torch.autograd.grad(terms["generator"], image)
            last_layer = self.generator.branch(branch).decoder.last_layer
            terms["adaptive_weight"] = adaptive_weight(
                image, reconstruction_grad, adversarial_grad, last_layer, average
            )
            weight = self._training.adversarial.weight * terms["adaptive_weight"]
            reconstruction = with_gradient(
                reconstruction + weight * terms["generator"], image, reconstruction_grad + weight * adversarial_grad
            )
        return Loss(reconstruction + output.loss, {name: term.detach() for name, term in terms.items()})

    def _optional_losses(self, branch: str, image: Tensor, batch: Batch, *, adversarial: bool) -> Iterator[Loss]:
        """Yield losses of related methods that are not in DAEFR's recipe.

        As in those methods, they do not affect the adaptive weight.
        """
        if self.identity is not None:
            identity = self.identity(image, batch[branch]).mean()
            yield Loss(self._training.identity.weight * identity, {"identity": identity.detach()})
        if adversarial and self.discriminator.components is not None:
            yield self.discriminator.components.generator_loss(branch, image, batch[branch], batch["components"])

    def _score_frozen(self, branch: str, image: Tensor) -> Tensor:
        """Score an image with gradients to the image only."""
        discriminator = self.discriminator[branch]
        frozen = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
        scores: Tensor = torch.func.functional_call(discriminator, frozen, (image,))
        return scores

    def discriminator_input(self, output: Outputs, batch: Batch) -> tuple[Any, ...]:
        """See `Stage`: the real images, the generator's output, and the components' boxes."""
        generated = {branch: output[branch].reconstruction.detach() for branch in self.branches}
        boxes = () if self.discriminator.components is None else (batch["components"],)
        return self.generator_input(batch), generated, *boxes

    def discriminator_loss(self, scores: Scores) -> Loss:
        """Sum the branches' hinge losses, and the losses of the facial components."""
        losses: dict[str, Tensor] = {}
        for branch in self.branches:
            branch_losses = {"discriminator": discriminator_loss(*scores[branch])}
            if self.discriminator.components is not None:
                branch_losses |= self.discriminator.components.discriminator_losses(branch, scores)
            losses |= {self._label(branch, name): loss for name, loss in branch_losses.items()}
        return Loss(torch.stack(list(losses.values())).sum(), {name: loss.detach() for name, loss in losses.items()})

    @torch.no_grad()
    def before_training(self, batch: Batch, seed: int) -> None:
        """See `Stage`: initialize the codes with k-means, if configured."""
        if not self._training.codebook.kmeans_init:
            return
        for branch in self.branches:
            vqgan = self.generator.branch(branch)
            vqgan.quantize.initialize(concatenate(vqgan.encode(batch[branch])), torch.Generator().manual_seed(seed))
            broadcast(vqgan.quantize.embedding.weight)

    @torch.no_grad()
    def after_step(self, step: int, output: Outputs, indices: dict[str, Tensor], seed: int) -> None:
        """See `Stage`: reset dead codes, if configured."""
        reset = self._training.codebook
        if not reset.reset_every_n_steps or (reset.reset_until_step and step > reset.reset_until_step):
            return
        for branch in self.branches:
            quantizer, counts = self.generator.branch(branch).quantize, self.get_buffer(f"counts_{branch}")
            # summed over the ranks at every step, because a checkpoint has one count
            counts += total(count_codes(indices[self._codebook(branch)], quantizer.codes))
            if step % reset.reset_every_n_steps == 0:
                generator = torch.Generator().manual_seed(seed + step)
                quantizer.reset_dead_codes(concatenate(output[branch].z), counts, generator)
                broadcast(quantizer.embedding.weight)
                counts.zero_()

    def pictures(self, output: Outputs, batch: Batch) -> dict[str, Tensor]:
        """See `Stage`: each branch's images and their reconstructions."""
        return {
            title: image
            for branch in self.branches
            for title, image in (
                (branch, batch[branch]),
                (f"{branch} reconstruction", output[branch].reconstruction),
            )
        }

    def code_indices(self, output: Outputs) -> dict[str, Tensor]:
        """See `Stage`."""
        return {self._codebook(branch): output[branch].indices for branch in self.branches}

    def _codebook(self, branch: str) -> str:
        return branch if len(self.branches) > 1 else ""

    def _label(self, branch: str, name: str) -> str:
        return f"{branch}_{name}" if len(self.branches) > 1 else name
