"""The autoencoder of the codebook stages (paper section 3.1): encoder, codebook, decoder."""

from typing import NamedTuple

from torch import Tensor, nn

from daefr.network.autoencoder import Decoder, Encoder
from daefr.network.quantizer import Quantizer
from daefr.settings.network import AutoencoderConfig


class VQGANOutput(NamedTuple):
    """The output of a forward pass, for the losses of stages 1a, 1b and 2."""

    reconstruction: Tensor
    """(B, 3, R, R), about [-1, 1] but not clipped."""
    z: Tensor
    """(B, C, S, S): the latent after `quant_conv`, before quantization."""
    loss: Tensor
    """Scalar: the quantizer loss."""
    indices: Tensor
    """(B, N) int64: the chosen codes."""


class VQGAN(nn.Module):
    """Image to codes and back; state-dict keys as under ``vqvae.`` in the released codebook checkpoints."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(config.latent_channels, config.code_channels, kernel_size=1)
        self.quantize = Quantizer(config.codes, config.code_channels, config.beta)
        self.post_quant_conv = nn.Conv2d(config.code_channels, config.latent_channels, kernel_size=1)
        self.decoder = Decoder(config)

    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, R, R) -> (B, C, S, S): the latent before quantization."""
        return self.quant_conv(self.encoder(image))  # type: ignore[no-any-return]

    def decode(self, quantized: Tensor) -> Tensor:
        """(B, C, S, S) codes -> (B, 3, R, R)."""
        return self.decoder(self.post_quant_conv(quantized))  # type: ignore[no-any-return]

    def forward(self, image: Tensor) -> VQGANOutput:
        """Reconstruct `image` (B, 3, R, R) through the codebook."""
        # float32 even under autocast, for the losses
        z = self.encode(image).float()
        quantized, loss, indices = self.quantize(z)
        return VQGANOutput(self.decode(quantized).float(), z, loss, indices)
