"""An imitation of the public reference: the same network, losses and gradients, computed as inefficiently.

Like VQGAN in the training loop of PyTorch Lightning 1.0, it differs from our implementation as follows:

- Every optimizer runs the complete forward pass again, of both autoencoders in the association: two passes per step in
  stage 1, four in stage 2. Only the parameters of that optimizer get gradients.
- The adaptive weight computes both losses' gradients of the last layer by a backward pass through the perceptual
  network and the discriminator, which is repeated for the training step.
- The perceptual network is in train mode, so that dropout removes half of the differences.
- Stage 3 decodes the image, with a graph to the fused feature and the decoder's weights, although no loss uses it.
- Codes are looked up by the product of a one-hot matrix (tokens x codes) and the codebook, with all terms of the
  distances; attention consists of two products and a softmax; upsampling is explicit; no activations are recomputed.
  Channels first, float32.
"""

from dataclasses import replace
from types import MethodType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daefr import ranks
from daefr.data.dataset import Batch
from daefr.losses.adversarial import discriminator_loss, generator_loss, gradient_ratio
from daefr.losses.contrastive import contrastive_loss
from daefr.losses.perceptual import LENGTH_FLOOR, PerceptualLoss
from daefr.network.blocks import AttentionBlock, ResidualBlock, Upsample
from daefr.network.predictor import PredictorLayer
from daefr.network.quantizer import Quantized, Quantizer
from daefr.network.restoration import RestorationModel, RestorationOutput
from daefr.profiling import Case, Run, random_images
from daefr.settings.speed import Speed
from daefr.settings.training import AutoencoderTraining, TrainingConfig
from daefr.speed import arrange_batch, prepare_network
from daefr.stages import AutoencoderStage, Loss, RestorationStage, Stage
from daefr.training.state import TrainingState

Side = Literal["ours", "reference"]

SPEED = Speed(channels_last=False, autocast="off", compile=False, retain_freed_memory=False)
"""The options of the reference: float32, channels first, not compiled."""


def build_side(case: Case, side: Side) -> tuple[Stage, TrainingConfig]:
    """Build one side's stage and the settings of its training; both sides have the same weights."""
    if side == "ours":
        return case.build()
    stage, training = replace(case, speed=SPEED).build()
    compute_as_reference(stage)
    return stage, training


def prepare_side(case: Case, side: Side) -> Run:
    """Build one side on the case's device."""
    if side == "ours":
        return case.prepare()
    device = torch.device(case.device)
    stage, training = build_side(case, side)
    prepare_network(stage, SPEED, device).train()
    images = arrange_batch(random_images(case.network.autoencoder.resolution, case.batch), SPEED, device)
    if isinstance(stage, RestorationStage) and case.name == "restore":
        model = stage.generator.eval()
        return lambda: {"mean": restore_as_reference(model, images["lq"]).mean()}
    optimization = ReferenceOptimization(TrainingState(stage, training))
    return lambda: optimization.step(images)[1]


def compute_as_reference(stage: Stage) -> None:
    """Replace methods of a stage's networks with those of the reference, in place."""
    for module in stage.modules():
        for kind, methods in REPLACED_METHODS.items():
            if isinstance(module, kind):
                for name, method in methods.items():
                    setattr(module, name, MethodType(method, module))


def restore_as_reference(model: RestorationModel, lq: Tensor) -> Tensor:
    """Restore images (B, 3, R, R)."""
    with torch.no_grad():
        return model.decode(model(lq).logits.argmax(2))


class ReferenceOptimization:
    """Performs training steps like the reference: one optimizer after the other, each with its own passes."""

    def __init__(self, state: TrainingState) -> None:
        """Use the weights and the settings of a training, on one device."""
        self._state, self._stage = state, state.stage
        training = state.training
        self._optimizers = {
            name: torch.optim.Adam(
                [parameter for parameter in module.parameters() if parameter.requires_grad],
                lr=training.learning_rate,
                betas=training.betas,
            )
            for name, module in self._turns().items()
        }
        if isinstance(self._stage, RestorationStage):
            # not trained, but the reference does not freeze them
            self._stage.generator.decoder.requires_grad_(True)
            self._stage.generator.post_quant_conv.requires_grad_(True)

    def step(self, images: Batch) -> tuple[None, dict[str, Tensor]]:
        """Train on one batch; return the scalars, with the names of our step."""
        terms: dict[str, Tensor] = {}
        total = torch.zeros((), device=images["hq"].device)
        for turn, optimizer in self._optimizers.items():
            self._give_gradients_to(turn)
            loss = self._loss(turn, images)
            optimizer.zero_grad()
            torch.autograd.backward(loss.total)
            optimizer.step()
            terms |= loss.terms
            if not turn.startswith("discriminator"):
                total = total + loss.total.detach()
        if "contrastive" in terms:
            total = total - terms["contrastive"]  # part of both autoencoders' losses, but only once of ours
        self._state.step += 1
        return None, terms | {"loss": total}

    def _decode_unused_image(self, model: RestorationModel, output: RestorationOutput) -> None:
        codes = model.codebook.lookup(output.logits.argmax(2), output.feature.shape[2])
        model.decoder(model.post_quant_conv(output.feature + (codes - output.feature).detach()))

    def _turns(self) -> dict[str, nn.Module]:
        if not isinstance(self._stage, AutoencoderStage):
            return {"": self._stage.generator}
        return {
            f"{kind} {branch}": modules.get_submodule(branch)
            for branch in self._stage.branches
            for kind, modules in (("generator", self._stage.generator), ("discriminator", self._stage.discriminator))
        }

    def _give_gradients_to(self, turn: str) -> None:
        for name, optimizer in self._optimizers.items():
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.requires_grad_(name == turn)

    def _loss(self, turn: str, images: Batch) -> Loss:
        stage = self._stage
        if isinstance(stage, AutoencoderStage):
            kind, _, branch = turn.partition(" ")
            return _autoencoder_loss(stage, self._state.training, kind, branch, images)
        assert isinstance(stage, RestorationStage)  # noqa: S101  # there is no other kind
        output = stage.generator(stage.generator_input(images))
        self._decode_unused_image(stage.generator, output)
        return stage.generator_loss(output, images, adversarial=False, average=ranks.average)


def _autoencoder_loss(stage: AutoencoderStage, training: Any, kind: str, branch: str, images: Batch) -> Loss:
    """Return the loss of one optimizer, after a complete forward pass."""
    assert isinstance(training, AutoencoderTraining)  # noqa: S101  # for the type checker
    outputs = stage.generator(stage.generator_input(images))
    terms: dict[str, Tensor] = {}
    contrastive = torch.zeros((), device=images[branch].device)
    if len(stage.branches) > 1:
        contrastive, terms["association_accuracy"] = contrastive_loss(outputs["hq"].z, outputs["lq"].z)
        terms["contrastive"] = contrastive

    output, target, critic = outputs[branch], images[branch], stage.discriminator.get_submodule(branch)
    if kind == "discriminator":
        loss = discriminator_loss(critic(target), critic(output.reconstruction.detach()))
        terms = {"discriminator": loss}
    else:
        terms |= {"l1": (output.reconstruction - target).abs().mean(), "quantizer": output.loss}
        reconstruction = terms["l1"]
        if stage.perceptual is not None:
            terms["perceptual"] = stage.perceptual(output.reconstruction, target).mean()
            reconstruction = reconstruction + training.perceptual.weight * terms["perceptual"]
        terms["generator"] = generator_loss(critic(output.reconstruction))
        last_layer = stage.generator.branch(branch).decoder.last_layer
        (reconstruction_grad,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
        (adversarial_grad,) = torch.autograd.grad(terms["generator"], last_layer, retain_graph=True)
        terms["adaptive_weight"] = gradient_ratio(reconstruction_grad, adversarial_grad)
        weight = training.adversarial.weight * terms["adaptive_weight"]
        loss = reconstruction + weight * terms["generator"] + output.loss + contrastive
    shared = ("contrastive", "association_accuracy")
    prefix = f"{branch}_" if len(stage.branches) > 1 else ""
    return Loss(loss, {name if name in shared else prefix + name: term.detach() for name, term in terms.items()})


def _residual_block(self: ResidualBlock, x: Tensor) -> Tensor:
    residual = self.conv1(_swish(self.norm1(x)))
    residual = self.conv2(_swish(self.norm2(residual)))
    return self.nin_shortcut(x) + residual  # type: ignore[no-any-return]


def _swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def _upsample(self: Upsample, x: Tensor) -> Tensor:
    return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # type: ignore[no-any-return]


def _attention(self: AttentionBlock, x: Tensor, y: Tensor | None = None) -> Tensor:
    normed = self.norm1(x)
    # (B, heads, C / heads, N) each
    query, key, value = (
        layer(source).reshape(len(x), self.heads, -1, x.shape[2] * x.shape[3])
        for layer, source in ((self.q, normed if y is None else self.norm2(y)), (self.k, normed), (self.v, normed))
    )
    share = torch.softmax(query.transpose(2, 3) @ key * query.shape[2] ** -0.5, dim=3)
    return x + self.proj_out((value @ share.transpose(2, 3)).reshape(x.shape))  # type: ignore[no-any-return]


def _predictor_layer(self: PredictorLayer, x: Tensor, position: Tensor) -> Tensor:
    normed = self.norm1(x)
    placed = normed + position
    # returning the attention weights prevents the use of a fused kernel
    x = x + self.self_attn(placed, placed, normed, need_weights=True)[0]
    return x + self.linear2(F.gelu(self.linear1(self.norm2(x))))  # type: ignore[no-any-return]


def _quantize(self: Quantizer, z: Tensor) -> Quantized:
    indices = self.assign(z)
    codes = _one_hot_lookup(self, indices, z.shape[2])
    loss = F.mse_loss(z, codes.detach()) + self.beta * F.mse_loss(codes, z.detach())
    return Quantized(z + (codes - z).detach(), loss, indices)


def _assign(self: Quantizer, z: Tensor) -> Tensor:
    rows, weight = z.permute(0, 2, 3, 1).flatten(0, 2), self.embedding.weight
    distance = rows.square().sum(1, keepdim=True) + weight.square().sum(1) - 2 * rows @ weight.t()
    return distance.argmin(1).view(len(z), -1)


def _one_hot_lookup(self: Quantizer, indices: Tensor, side: int) -> Tensor:
    chosen = torch.zeros(indices.numel(), self.codes, device=indices.device)
    chosen.scatter_(1, indices.reshape(-1, 1), 1)
    return (chosen @ self.embedding.weight).view(len(indices), side, side, -1).permute(0, 3, 1, 2).contiguous()


def _perceptual(self: PerceptualLoss, image: Tensor, target: Tensor) -> Tensor:
    distances = []
    pairs = zip(self.net(self.scaling_layer(image)), self.net(self.scaling_layer(target)), strict=True)
    for index, (seen, wanted) in enumerate(pairs):
        difference = (_unit(seen) - _unit(wanted)) ** 2
        kept = F.dropout(difference, training=self.training)
        distances.append(self.get_submodule(f"lin{index}")(kept).mean((2, 3), keepdim=True))
    return torch.stack(distances).sum(0).flatten()


def _unit(feature: Tensor) -> Tensor:
    return feature / (torch.sqrt((feature**2).sum(1, keepdim=True)) + LENGTH_FLOOR)


REPLACED_METHODS: dict[type[nn.Module], dict[str, Any]] = {
    ResidualBlock: {"forward": _residual_block},
    Upsample: {"forward": _upsample},
    AttentionBlock: {"forward": _attention},
    PredictorLayer: {"forward": _predictor_layer},
    Quantizer: {"forward": _quantize, "assign": _assign, "lookup": _one_hot_lookup},
    PerceptualLoss: {"forward": _perceptual, "train": nn.Module.train},
}
"""The reference's methods, by our modules."""
