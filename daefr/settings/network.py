"""Settings of the networks. The defaults are the released 512x512 configuration."""

from typing import Self

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from daefr.settings.base import Settings


class AutoencoderConfig(Settings):
    """Encoder, codebook and decoder (paper section 3.1; the reference's ``configs/*_codebook.yaml``).

    Raises:
        pydantic.ValidationError: with one sentence a problem, when the sizes do not fit together.

    """

    resolution: PositiveInt = Field(512, description="Side of all square images, in pixels.")
    channels: PositiveInt = Field(64, description="Number of channels of the finest level.")
    multipliers: tuple[PositiveInt, ...] = Field(
        (1, 2, 2, 4, 4, 8),
        min_length=1,
        description="Factor on `channels` of each level, finest first; each further level halves the resolution.",
    )
    blocks: PositiveInt = Field(
        2, description="Number of residual blocks per level of the encoder; the decoder has one more per level."
    )
    attention_resolutions: tuple[PositiveInt, ...] = Field(
        (16,), description="Resolutions, in pixels, of the levels whose residual blocks are followed by self-attention."
    )
    groups: PositiveInt = Field(32, description="Number of groups of each group normalization.")
    latent_channels: PositiveInt = Field(
        256, description="Number of channels between the encoder or decoder and its 1x1 convolution."
    )
    codes: PositiveInt = Field(1024, description="Number of codes in the codebook.")
    code_channels: PositiveInt = Field(256, description="Number of channels of each code.")
    beta: NonNegativeFloat = Field(0.25, description="Weight of the codebook term in the quantizer's loss.")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(self.channels * multiplier for multiplier in self.multipliers)

    @property
    def shrink(self) -> int:
        """How many pixels of the image's side one latent token covers."""
        return int(2 ** (len(self.multipliers) - 1))

    @property
    def latent_side(self) -> int:
        """Side of the square latent, in tokens."""
        return self.resolution // self.shrink

    @property
    def tokens(self) -> int:
        """Latent tokens of one image."""
        return self.latent_side**2

    @property
    def level_resolutions(self) -> tuple[int, ...]:
        """Side in pixels of each level, finest first."""
        return tuple(self.resolution // 2**level for level in range(len(self.multipliers)))

    @model_validator(mode="after")
    def _resolution_shrinks_evenly(self) -> Self:
        if self.resolution % self.shrink:
            raise ValueError(
                f"resolution is {self.resolution}, but {len(self.multipliers)} levels (multipliers) halve it "
                f"{len(self.multipliers) - 1} times, so it must be a multiple of {self.shrink}"
            )
        return self

    @model_validator(mode="after")
    def _groups_divide_widths(self) -> Self:
        uneven = sorted({width for width in self.widths if width % self.groups})
        if uneven:
            raise ValueError(
                f"groups is {self.groups}, which does not divide the level widths {_listed(uneven)} "
                "(channels times multipliers): choose a number that divides all of them"
            )
        return self

    @model_validator(mode="after")
    def _attention_has_a_level(self) -> Self:
        unknown = sorted(set(self.attention_resolutions) - set(self.level_resolutions))
        if unknown:
            raise ValueError(
                f"attention_resolutions holds {_listed(unknown)}, but the levels are "
                f"{_listed(self.level_resolutions)} pixels wide: choose among those"
            )
        return self


class DiscriminatorConfig(Settings):
    """The patch discriminator of the codebook stages (the reference's ``NLayerDiscriminator``)."""

    channels: PositiveInt = Field(64, description="Number of channels of the first convolution.")
    layers: PositiveInt = Field(3, description="Number of convolutions with stride 2.")


class PredictorConfig(Settings):
    """Fusion and code predictor (paper section 3.3).

    Raises:
        pydantic.ValidationError: when `heads` does not divide `width`.

    """

    width: PositiveInt = Field(512, description="Number of channels of each token in the transformer.")
    layers: PositiveInt = Field(9, description="Number of layers of the transformer.")
    heads: PositiveInt = Field(8, description="Number of attention heads per transformer layer.")
    mlp: PositiveInt = Field(
        1024, description="Number of hidden channels of each transformer layer's feed-forward network."
    )
    fusion_heads: PositiveInt = Field(
        8, description="Number of attention heads in the fusion of both encoders' features."
    )

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(
                f"heads is {self.heads}, which does not divide width ({self.width}): choose a divisor of {self.width}"
            )
        return self


class RestorationConfig(Settings):
    """The whole restoration network (paper section 3.3).

    Raises:
        pydantic.ValidationError: when the fusion's heads or groups do not divide the codes' channels.

    """

    autoencoder: AutoencoderConfig = Field(
        AutoencoderConfig(), description="Sizes of both encoders, the codebook and the decoder."
    )
    predictor: PredictorConfig = Field(PredictorConfig(), description="Sizes of the fusion and of the code predictor.")

    @model_validator(mode="after")
    def _fusion_divides_code_channels(self) -> Self:
        channels = self.autoencoder.code_channels
        for name, value in (
            ("predictor.fusion_heads", self.predictor.fusion_heads),
            ("autoencoder.groups", self.autoencoder.groups),
        ):
            if channels % value:
                raise ValueError(
                    f"{name} is {value}, which does not divide autoencoder.code_channels ({channels}), "
                    f"as the fusion needs: choose a divisor of {channels}"
                )
        return self


class NetworkConfig(RestorationConfig):
    """Every network of the method: the restoration network and the discriminators of its training."""

    discriminator: DiscriminatorConfig = Field(
        DiscriminatorConfig(), description="Sizes of the patch discriminators, one per autoencoder."
    )


def _listed(numbers: tuple[int, ...] | list[int]) -> str:
    return ", ".join(str(number) for number in numbers)
