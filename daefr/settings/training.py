"""Settings of a stage's training. The defaults are the released recipe's."""

import math
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from daefr.errors import UserError
from daefr.settings.base import Settings
from daefr.settings.speed import Speed

Share = Annotated[float, Field(ge=0, lt=1)]


class TrainingConfig(Settings):
    """What every stage needs to know. Times are counted in optimizer steps."""

    steps: NonNegativeInt | None = Field(None, description="Length of the training; 0 takes `start` as it is.")
    epochs: PositiveFloat | None = Field(None, description="The same, in passes over the data set.")
    start: str | None = Field(
        None, description="Checkpoint directory of this stage to start from, or a version as models:/NAME@ALIAS."
    )
    batch: PositiveInt = Field(32, description="Samples a step, over all workers together.")
    accumulate: PositiveInt = Field(
        1,
        description="Equal parts that the batch is computed in, one after the other, to save memory. What looks beyond "
        "its own sample (contrastive loss, adaptive weight, BatchNorm) sees a part.",
    )
    base_learning_rate: PositiveFloat = Field(4.5e-6, description="Learning rate a sample of the global batch.")
    warmup: NonNegativeInt = Field(0, description="Steps in which the learning rate rises to its full height.")
    schedule: Literal["multistep", "cosine"] = Field(
        "multistep", description="Whether the learning rate falls at `milestones`, or as a cosine down to `floor`."
    )
    milestones: tuple[PositiveInt, ...] = Field((), description="Steps at which the learning rate falls by `gamma`.")
    gamma: PositiveFloat = 0.1
    floor: Share = Field(0.0, description="Share of the learning rate that is left at the end of a cosine.")
    clip_gradient: PositiveFloat | None = Field(
        None, description="Largest norm of the gradients of each of generator and discriminator; none by default."
    )
    ema: Share | None = Field(
        None,
        description="Decay of a moving average of the weights, such as 0.999; validated and registered beside them.",
    )
    flip: bool = Field(True, description="Mirror half of the training images.")
    betas: tuple[float, float] = (0.5, 0.9)
    log_every: PositiveInt = 50
    validate_every: PositiveInt = 1000
    checkpoint_every: PositiveInt = 1000
    checkpoint_minutes: PositiveFloat | None = Field(
        None, description="Make a checkpoint also whenever the last one is so many minutes old."
    )
    speed: Speed = Field(Speed(), description="How it is computed; by default as suits the device.")

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        if self.batch % self.accumulate:
            raise ValueError(f"batch={self.batch} does not divide into accumulate={self.accumulate} equal parts")
        return self

    @model_validator(mode="after")
    def _schedule_is_one(self) -> Self:
        if self.schedule == "cosine" and self.milestones:
            raise ValueError("milestones mean nothing to schedule=cosine: give one of the two")
        if self.schedule == "multistep" and self.floor:
            raise ValueError("floor means nothing to schedule=multistep: it is where schedule=cosine ends")
        if self.steps and self.warmup >= self.steps:
            raise ValueError(f"warmup={self.warmup} leaves no step of steps={self.steps} at the full learning rate")
        return self

    @model_validator(mode="after")
    def _has_one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        if self.steps == 0 and self.start is None:
            raise ValueError("steps=0 trains nothing, and there is no start to take as it is")
        return self

    def in_steps(self, samples: int) -> Self:
        """Return the same training with its length in steps, for a data set of so many samples."""
        if self.epochs is None:
            return self
        return self.model_copy(update={"steps": max(1, round(self.epochs * samples / self.batch)), "epochs": None})

    @property
    def last_step(self) -> int:
        """The number of steps. Raises `ValueError` where it is given in epochs: see `in_steps`."""
        if self.steps is None:
            raise ValueError("a training given in epochs has a last step only for some data set")
        return self.steps

    @property
    def part(self) -> int:
        """The samples of one of the parts that a batch is computed in, over all workers together."""
        return self.batch // self.accumulate

    @property
    def learning_rate(self) -> float:
        """The learning rate at its full height."""
        return self.base_learning_rate * self.batch

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step: a pure function, so that a schedule has nothing to save."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        if self.schedule == "cosine":
            done = (step - self.warmup) / (self.last_step - self.warmup)
            return self.learning_rate * (self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2)
        return float(self.learning_rate * self.gamma ** sum(step >= milestone for milestone in self.milestones))

    def check_device(self, device_type: str) -> None:
        """Raise `UserError` for what devices of a type (`cuda`, `cpu`) cannot do."""
        self.speed.check_device(device_type)


class AdversarialConfig(Settings):
    """The discriminator's part in the loss."""

    weight: NonNegativeFloat = Field(0.8, description="Factor on the adaptively weighted term; 0 turns it off.")
    start: NonNegativeInt = Field(30001, description="First step with a discriminator.")
    sync_batchnorm: bool = Field(
        False,
        description="Normalize by the statistics of all workers' parts rather than of each one's own; GPUs only.",
    )


class PerceptualConfig(Settings):
    """The LPIPS term."""

    weight: NonNegativeFloat = Field(1.0, description="0 turns the term off.")
    vgg16: Path | None = Field(None, description="torchvision's VGG16 weights; by default the usual download.")


class ComponentsConfig(Settings):
    """Discriminators of eyes and mouth, with a style loss on their features; off in the released recipe.

    They take part from `adversarial.start` on. RestoreFormer's weights are 1.5 and 2000, GFP-GAN's 1 and 200.
    """

    weight: NonNegativeFloat = Field(0.0, description="Factor on their adversarial losses; 0 turns all of it off.")
    style_weight: NonNegativeFloat = Field(2000.0, description="Factor on the style loss beside them.")
    eyes: PositiveInt = Field(80, description="Side of the eyes' crops in pixels at 512; scales with the resolution.")
    mouth: PositiveInt = Field(120, description="Likewise of the mouth's.")


class IdentityConfig(Settings):
    """The ArcFace identity term; off in the released recipe. RestoreFormer's and GFP-GAN's weights are 3 and 10."""

    weight: NonNegativeFloat = Field(0.0, description="0 turns the term off.")
    arcface: Path | None = Field(None, description="ArcFace's weights, arcface_resnet18.pth of GFP-GAN.")


class CodebookRemedies(Settings):
    """Against the collapse of a codebook in short trainings; both off in the released recipe."""

    kmeans_start: bool = Field(False, description="Start the codes at the k-means centres of the first batch.")
    restart_every: NonNegativeInt = Field(0, description="Steps after which unused codes are moved; 0 for never.")
    restart_until: NonNegativeInt = Field(0, description="Last step at which they are; 0 for no end.")


class AutoencoderTraining(TrainingConfig):
    """Training of one or two autoencoders with their discriminators: stages 1a, 1b and 2."""

    adversarial: AdversarialConfig = AdversarialConfig()
    perceptual: PerceptualConfig = PerceptualConfig()
    components: ComponentsConfig = ComponentsConfig()
    identity: IdentityConfig = IdentityConfig()
    codebook: CodebookRemedies = CodebookRemedies()

    @model_validator(mode="after")
    def _components_have_a_turn(self) -> Self:
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

    gather: bool = Field(
        True,
        description="Contrast the whole batch, so that the number of workers changes nothing; false contrasts each "
        "worker's part alone, as the released training did.",
    )


class RestorationTraining(TrainingConfig):
    """Training of fusion, predictor and both encoders: stage 3."""

    feature_weight: NonNegativeFloat = Field(10.0, description="Factor on the feature loss beside the code loss.")
