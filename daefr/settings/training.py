"""Settings of a stage's training. The defaults are the released recipe's."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from daefr.errors import UserError
from daefr.settings.base import LocalPath, Place, Settings
from daefr.settings.speed import Speed

Share = Annotated[float, Field(ge=0, lt=1)]


class TrainingConfig(Settings):
    """What every stage needs to know. Durations are in optimizer steps unless the key names another unit."""

    steps: NonNegativeInt | None = Field(
        None,
        description="Number of optimizer steps; 0 uses `initial_checkpoint` as it is. Set either this or `epochs`.",
    )
    epochs: PositiveFloat | None = Field(
        None, description="Number of passes over the training samples. Set either this or `steps`."
    )
    initial_checkpoint: Place | None = Field(
        None,
        description="Checkpoint directory or released file of this stage, or a model version such as "
        "models:/NAME@ALIAS, whose weights training starts from. By default, training starts from random weights.",
    )
    global_batch_size: PositiveInt = Field(
        32, description="Number of samples per optimizer step, over all workers together."
    )
    gradient_accumulation_steps: PositiveInt = Field(
        1,
        description="Number of equal parts that the batch is computed in, one after the other, to save memory. What "
        "depends on several samples (contrastive loss, adaptive weight, BatchNorm) then sees one part only.",
    )
    base_learning_rate: PositiveFloat = Field(
        4.5e-6, description="Learning rate per sample; multiplied by the global batch size."
    )
    warmup_steps: NonNegativeInt = Field(
        0, description="Number of steps over which the learning rate rises linearly to its full value."
    )
    lr_scheduler: Literal["multistep", "cosine"] = Field(
        "multistep",
        description="How the learning rate decays: `multistep` multiplies it by `gamma` at each of `milestones`; "
        "`cosine` lowers it to `min_lr_ratio` of its full value at the last step.",
    )
    milestones: tuple[PositiveInt, ...] = Field(
        (), description="Steps at which the learning rate is multiplied by `gamma`; for `lr_scheduler: multistep`."
    )
    gamma: PositiveFloat = Field(0.1, description="Factor on the learning rate at each of `milestones`.")
    min_lr_ratio: Share = Field(
        0.0,
        description="Fraction of the full learning rate that is left at the last step; for `lr_scheduler: cosine`.",
    )
    max_grad_norm: PositiveFloat | None = Field(
        None,
        description="Largest L2 norm to which the gradients of the generator, and those of the discriminator, are each "
        "clipped. By default, gradients are not clipped.",
    )
    ema_decay: Share | None = Field(
        None,
        description="Decay per step of an exponential moving average of the weights, such as 0.999; the average is "
        "validated and registered as a version of its own. By default, no average is kept.",
    )
    horizontal_flip: bool = Field(True, description="Whether each training sample is mirrored with probability 1/2.")
    betas: tuple[float, float] = Field(
        (0.5, 0.9), description="Adam's decay rates of the running averages of the gradient and of its square."
    )
    log_every_n_steps: PositiveInt = Field(50, description="Number of steps between two logs of the training metrics.")
    validate_every_n_steps: PositiveInt = Field(1000, description="Number of steps between two validations.")
    checkpoint_every_n_steps: PositiveInt = Field(
        1000, description="Number of steps between two intermediate checkpoints."
    )
    checkpoint_every_n_minutes: PositiveFloat | None = Field(
        None,
        description="An intermediate checkpoint is also written once the last one is this many minutes old. By "
        "default, only steps count.",
    )
    speed: Speed = Field(
        Speed(), description="Memory layout, precision and compilation. By default, they are chosen for the device."
    )

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        if self.global_batch_size % self.gradient_accumulation_steps:
            raise ValueError(
                f"global_batch_size={self.global_batch_size} is not a multiple of "
                f"gradient_accumulation_steps={self.gradient_accumulation_steps}"
            )
        return self

    @model_validator(mode="after")
    def _schedule_is_consistent(self) -> Self:
        if self.lr_scheduler == "cosine" and self.milestones:
            raise ValueError("milestones have no effect with lr_scheduler=cosine: set only one of them")
        if self.lr_scheduler == "multistep" and self.min_lr_ratio:
            raise ValueError(
                "min_lr_ratio has no effect with lr_scheduler=multistep: set lr_scheduler=cosine, or use milestones"
            )
        if self.steps and self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps={self.warmup_steps} must be less than steps={self.steps}")
        return self

    @model_validator(mode="after")
    def _has_one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("set either steps or epochs")
        if self.steps == 0 and self.initial_checkpoint is None:
            raise ValueError("steps=0 requires initial_checkpoint, which it uses as it is")
        return self

    def in_steps(self, samples: int) -> Self:
        """Return the same training with its length in steps, for a data set of so many samples."""
        if self.epochs is None:
            return self
        return self.model_copy(
            update={"steps": max(1, round(self.epochs * samples / self.global_batch_size)), "epochs": None}
        )

    @property
    def last_step(self) -> int:
        """The number of steps. Raises `ValueError` where it is given in epochs: see `in_steps`."""
        if self.steps is None:
            raise ValueError("a training given in epochs has a last step only for some data set")
        return self.steps

    @property
    def micro_batch_size(self) -> int:
        """Number of samples per gradient accumulation step, over all ranks together."""
        return self.global_batch_size // self.gradient_accumulation_steps

    @property
    def learning_rate(self) -> float:
        """The learning rate at its full height."""
        return self.base_learning_rate * self.global_batch_size

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step: a pure function, so that a schedule has nothing to save."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if self.lr_scheduler == "cosine":
            done = (step - self.warmup_steps) / (self.last_step - self.warmup_steps)
            return self.learning_rate * (
                self.min_lr_ratio + (1 - self.min_lr_ratio) * (1 + math.cos(math.pi * done)) / 2
            )
        return float(self.learning_rate * self.gamma ** sum(step >= milestone for milestone in self.milestones))

    def check_device(self, device_type: str) -> None:
        """Raise `UserError` for what devices of a type (`cuda`, `cpu`) cannot do."""
        self.speed.check_device(device_type)


class AdversarialConfig(Settings):
    """The adversarial term of the loss."""

    weight: NonNegativeFloat = Field(
        0.8, description="Factor on the adaptively weighted adversarial loss; 0 turns the discriminator off."
    )
    start_step: NonNegativeInt = Field(
        30001, description="First step at which the discriminator is trained and contributes to the loss."
    )
    sync_batchnorm: bool = Field(
        False,
        description="Whether the discriminator's BatchNorm uses the statistics of all workers rather than each "
        "worker's own; requires GPUs.",
    )


class PerceptualConfig(Settings):
    """The LPIPS term of the loss."""

    weight: NonNegativeFloat = Field(1.0, description="Factor on the LPIPS loss; 0 turns it off.")
    vgg16: LocalPath | None = Field(
        None, description="File with torchvision's VGG16 weights. By default, they are downloaded."
    )


class ComponentsConfig(Settings):
    """Discriminators of eyes and mouth, with a style loss on their features; off in the released recipe.

    They are trained from `adversarial.start_step` on. RestoreFormer's weights are 1.5 and 2000, GFP-GAN's 1 and 200.
    """

    weight: NonNegativeFloat = Field(
        0.0, description="Factor on the component discriminators' adversarial losses; 0 turns the components off."
    )
    style_weight: NonNegativeFloat = Field(
        2000.0, description="Factor on the style loss, which compares the component discriminators' features."
    )
    eye_crop_size: PositiveInt = Field(
        80,
        description="Side of the square crops of the eyes, in pixels of a 512x512 image; scales with the resolution.",
    )
    mouth_crop_size: PositiveInt = Field(
        120,
        description="Side of the square crop of the mouth, in pixels of a 512x512 image; scales with the resolution.",
    )


class IdentityConfig(Settings):
    """The ArcFace identity term; off in the released recipe. RestoreFormer's and GFP-GAN's weights are 3 and 10."""

    weight: NonNegativeFloat = Field(0.0, description="Factor on the ArcFace identity loss; 0 turns it off.")
    arcface: LocalPath | None = Field(
        None, description="File with ArcFace's weights, arcface_resnet18.pth of GFP-GAN; required if `weight` is not 0."
    )


class DeadCodeResetConfig(Settings):
    """Remedies for dead codes, which short trainings suffer from; all off in the released recipe."""

    kmeans_init: bool = Field(
        False, description="Whether the codes are initialized with the k-means centers of the first batch's features."
    )
    reset_every_n_steps: NonNegativeInt = Field(
        0,
        description="Number of steps after which codes that were not used are reset to current features; 0 for never.",
    )
    reset_until_step: NonNegativeInt = Field(
        0, description="Last step at which unused codes are reset; 0 for no limit."
    )


class AutoencoderTraining(TrainingConfig):
    """Training of one or two autoencoders with their discriminators: stages 1a, 1b and 2."""

    adversarial: AdversarialConfig = Field(AdversarialConfig(), description="The adversarial term of the loss.")
    perceptual: PerceptualConfig = Field(PerceptualConfig(), description="The LPIPS term of the loss.")
    components: ComponentsConfig = Field(
        ComponentsConfig(), description="Discriminators of eyes and mouth; off by default."
    )
    identity: IdentityConfig = Field(
        IdentityConfig(), description="The ArcFace identity term of the loss; off by default."
    )
    codebook: DeadCodeResetConfig = Field(
        DeadCodeResetConfig(), description="Remedies for codes that are never used; off by default."
    )

    @model_validator(mode="after")
    def _components_have_discriminators(self) -> Self:
        if self.components.weight and not self.adversarial.weight:
            raise ValueError(
                f"components.weight is {self.components.weight:g}, but adversarial.weight is 0, so that no "
                "discriminator is ever trained: turn the adversarial term on, or components.weight=0"
            )
        return self

    def check_device(self, device_type: str) -> None:
        """See `TrainingConfig`."""
        super().check_device(device_type)
        if self.adversarial.sync_batchnorm and device_type != "cuda":
            raise UserError(
                f"adversarial.sync_batchnorm=true needs GPUs: torch has it for CUDA only, not {device_type}"
            )


class AssociationTraining(AutoencoderTraining):
    """Training of both autoencoders together: stage 2."""

    gather_across_ranks: bool = Field(
        True,
        description="Whether the contrastive loss is computed over the samples of all ranks, so that the number of "
        "ranks does not matter; false computes it over each rank's own, as the released training did.",
    )


class RestorationTraining(TrainingConfig):
    """Training of fusion, predictor and both encoders: stage 3."""

    feature_weight: NonNegativeFloat = Field(
        10.0, description="Factor on the feature loss, relative to the loss of the predicted codes."
    )
