"""Stage 3: predict the HQ codes of a degraded face (paper section 3.3)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from daefr.data.dataset import Batch, Part
from daefr.network.restoration import CodeTarget, RestorationModel, RestorationOutput
from daefr.network.vqgan import VQGAN
from daefr.settings.network import NetworkConfig
from daefr.settings.training import RestorationTraining
from daefr.stages.base import Average, Loss, Stage


class RestorationStage(Stage):
    """Trains both associated encoders, the fusion and the predictor against the codes of the frozen stage 1a."""

    parts: tuple[Part, ...] = ("hq", "severe")
    generator: RestorationModel

    def __init__(self, network: NetworkConfig, training: RestorationTraining) -> None:
        super().__init__("restoration", network)
        self._training = training
        self.discriminator = None
        self.generator = RestorationModel(network)
        codebook = VQGAN(network.autoencoder)
        self.target = CodeTarget(codebook.encoder, codebook.quant_conv, self.generator.codebook)

    def load_upstream(self, codebook: VQGAN, hq: VQGAN, lq: VQGAN) -> None:
        """Copy the weights of the upstream stages.

        Args:
            codebook: stage 1a: the frozen encoder of the targets, codebook, `post_quant_conv` and decoder.
            hq: the HQ branch of stage 2: encoder and `quant_conv`, which are trained further.
            lq: the LQ branch of stage 2, likewise.

        """
        self.generator.load_upstream(codebook, hq, lq)
        self.target.encoder.load_state_dict(codebook.encoder.state_dict())
        self.target.quant_conv.load_state_dict(codebook.quant_conv.state_dict())

    def train(self, mode: bool = True) -> "RestorationStage":
        """Set the mode, except for frozen modules, which stay in eval mode."""
        super().train(mode)
        for frozen in (self.target, self.generator.codebook, self.generator.post_quant_conv, self.generator.decoder):
            frozen.eval()
        return self

    def generator_input(self, batch: Batch) -> Tensor:
        """See `Stage`: the degraded faces."""
        return batch["lq"]

    def generator_loss(
        self,
        output: RestorationOutput,
        batch: Batch,
        *,
        adversarial: bool,  # noqa: ARG002
        average: Average,  # noqa: ARG002
    ) -> Loss:
        """See `Stage`: cross-entropy of the codes plus the weighted distance of the fused feature to its target."""
        target = self.target(batch["hq"])
        code = F.cross_entropy(output.logits.flatten(0, 1).float(), target.indices.flatten())
        feature = F.mse_loss(output.feature.float(), target.quantized)
        accuracy = (output.logits.argmax(2) == target.indices).float().mean()
        terms = {"code": code.detach(), "feature": feature.detach(), "code_accuracy": accuracy}
        return Loss(code + self._training.feature_weight * feature, terms)

    @torch.no_grad()
    def pictures(self, output: RestorationOutput, batch: Batch) -> dict[str, Tensor]:
        """See `Stage`: HQ, its reconstruction from the codes, LQ, and the restored image."""
        return {
            "hq": batch["hq"],
            "hq codebook": self.generator.decode(self.target(batch["hq"]).indices),
            "lq": batch["lq"],
            "restored": self.generator.decode(output.logits.argmax(2)),
        }

    def code_indices(self, output: RestorationOutput) -> dict[str, Tensor]:
        """See `Stage`: the predicted codes."""
        return {"": output.logits.argmax(2)}

    def weights(self) -> dict[str, Tensor]:
        """See `Stage`; the target's codebook is the generator's."""
        return {name: tensor for name, tensor in super().weights().items() if not name.startswith("target.codebook.")}
