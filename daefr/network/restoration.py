"""The restoration network (paper section 3.3), and the frozen network that computes its targets."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from daefr.errors import UserError
from daefr.network.autoencoder import Decoder, Encoder
from daefr.network.blocks import AttentionBlock
from daefr.network.predictor import CodePredictor
from daefr.network.quantizer import Quantizer
from daefr.network.vqgan import VQGAN
from daefr.settings.network import RestorationConfig


class RestorationOutput(NamedTuple):
    """The output of the restoration network, for the losses of stage 3."""

    logits: Tensor
    """(B, N, K): the scores of the codes at each position."""
    feature: Tensor
    """(B, C, S, S): the fused feature, whose target is the quantized HQ latent."""


class Restored(NamedTuple):
    """A restored batch."""

    image: Tensor
    """(B, 3, R, R), about [-1, 1] but not clipped."""
    indices: Tensor
    """(B, N) int64: the predicted codes."""


class CodeTargets(NamedTuple):
    """The targets of stage 3."""

    indices: Tensor
    """(B, N) int64: the indices of the HQ image's codes."""
    quantized: Tensor
    """(B, C, S, S): those codes."""


class RestorationModel(nn.Module):
    """The network for inference; codebook, `post_quant_conv` and decoder are frozen.

    Both encoders get the degraded image. Their features are fused by cross-attention, with queries from the LQ branch
    and keys and values from the HQ branch, and a transformer predicts the codes for the decoder of stage 1a.
    """

    def __init__(self, config: RestorationConfig) -> None:
        super().__init__()
        self.config = config
        sizes = config.autoencoder
        self.hq_encoder = Encoder(sizes)
        self.hq_quant_conv = nn.Conv2d(sizes.latent_channels, sizes.code_channels, kernel_size=1)
        self.lq_encoder = Encoder(sizes)
        self.lq_quant_conv = nn.Conv2d(sizes.latent_channels, sizes.code_channels, kernel_size=1)
        self.fusion = AttentionBlock(sizes.code_channels, sizes.groups, config.predictor.fusion_heads, cross=True)
        self.predictor = CodePredictor(config)
        self.codebook = Quantizer(sizes.codes, sizes.code_channels, sizes.beta).requires_grad_(False)
        self.post_quant_conv = nn.Conv2d(sizes.code_channels, sizes.latent_channels, kernel_size=1)
        self.post_quant_conv.requires_grad_(False)
        self.decoder = Decoder(sizes).requires_grad_(False)

    def load_upstream(self, codebook: VQGAN, hq: VQGAN, lq: VQGAN) -> None:
        """Copy the weights of the upstream stages; fusion and predictor are unchanged.

        Args:
            codebook: stage 1a: codebook, `post_quant_conv` and decoder.
            hq: the HQ branch of stage 2: encoder and `quant_conv`.
            lq: the LQ branch of stage 2, likewise.

        Raises:
            RuntimeError: if the sizes differ.

        """
        for target, source in (
            (self.hq_encoder, hq.encoder),
            (self.hq_quant_conv, hq.quant_conv),
            (self.lq_encoder, lq.encoder),
            (self.lq_quant_conv, lq.quant_conv),
            (self.codebook, codebook.quantize),
            (self.post_quant_conv, codebook.post_quant_conv),
            (self.decoder, codebook.decoder),
        ):
            target.load_state_dict(source.state_dict())

    def forward(self, lq: Tensor) -> RestorationOutput:
        """Predict the codes of degraded faces (B, 3, R, R) in [-1, 1]; no image is decoded.

        Raises:
            UserError: if the images are not R x R, since the position embedding is learned for one size.

        """
        side = self.config.autoencoder.resolution
        if lq.shape[2:] != (side, side):
            raise UserError(
                f"the images have {lq.shape[3]}x{lq.shape[2]} pixels (width x height), but this network restores "
                f"{side}x{side}; resize them first"
            )
        feature = self.fusion(
            self.hq_quant_conv(self.hq_encoder(lq)),
            self.lq_quant_conv(self.lq_encoder(lq)),
        )
        # float32 even under autocast, for the losses
        return RestorationOutput(self.predictor(feature).float(), feature.float())

    def decode(self, indices: Tensor) -> Tensor:
        """Decode codes (B, N) to images (B, 3, R, R)."""
        quantized = self.codebook.lookup(indices, self.config.autoencoder.latent_side)
        return self.decoder(self.post_quant_conv(quantized)).float()  # type: ignore[no-any-return]

    @torch.no_grad()
    def restore(self, lq: Tensor) -> Restored:
        """Restore degraded faces (B, 3, R, R) in [-1, 1] with the most likely code at each position.

        Raises:
            UserError: if the images are not R x R.

        """
        indices = self(lq).logits.argmax(2)
        return Restored(self.decode(indices), indices)


class CodeTarget(nn.Module):
    """The frozen encoder of stage 1a, which computes the codes of HQ images for training.

    Args:
        encoder: of stage 1a; all arguments are frozen in place.
        quant_conv: of stage 1a.
        codebook: of stage 1a, which the restoration model may share.

    """

    def __init__(self, encoder: Encoder, quant_conv: nn.Conv2d, codebook: Quantizer) -> None:
        super().__init__()
        self.encoder = encoder
        self.quant_conv = quant_conv
        self.codebook = codebook
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, hq: Tensor) -> CodeTargets:
        """Return the codes of HQ faces (B, 3, R, R) in [-1, 1]."""
        latent = self.quant_conv(self.encoder(hq))
        indices = self.codebook.assign(latent)
        return CodeTargets(indices, self.codebook.lookup(indices, latent.shape[2]))
