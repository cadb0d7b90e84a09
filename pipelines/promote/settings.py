"""The gates of each stage, as data: what a candidate must be to become champion."""

from typing import Annotated, Literal, Self, cast, get_args

from pydantic import Field, NonNegativeFloat, model_validator

from daefr.settings.base import Settings, StageName
from daefr.settings.metrics import MetricName
from pipelines.engine.names import VALIDATION

OF_TRAINING: dict[StageName, tuple[str, ...]] = {
    "hq_codebook": ("validation_loss", "dead_codes", "codebook_perplexity"),
    "lq_codebook": ("validation_loss", "dead_codes", "codebook_perplexity"),
    "association": (
        "validation_loss",
        *(f"{codebook}_{figure}" for codebook in ("hq", "lq") for figure in ("dead_codes", "codebook_perplexity")),
    ),
    "restoration": ("validation_loss", "dead_codes", "codebook_perplexity"),
}
"""The figures that training itself measures on the validation faces, each one number for all of them."""

OF_EVALUATION = ("psnr", "ssim", "lpips", "lpips_01", "niqe", "ida", "lmd", "fid")
"""The figures of restored faces, which the step `evaluate` measures: one of each image, and one for all of FID."""


def measure_of(figure: str) -> MetricName:
    """Return the measure that a figure of `OF_EVALUATION` comes from: LPIPS has two under the paper's protocol."""
    (name,) = [name for name in get_args(MetricName) if name == figure.removesuffix("_01")]
    return cast(MetricName, name)


WITHOUT_IMAGES = (*dict.fromkeys(name for names in OF_TRAINING.values() for name in names), "fid")


class Gate(Settings):
    """What one figure of a candidate must be, beside the champion's or by itself."""

    metric: str = Field(description="Such as validation_loss, dead_codes (a share of all), lpips or ida.")
    direction: Literal["lower", "higher"] | None = Field(None, description="Which is better.")
    minimum: NonNegativeFloat | None = Field(
        None, description="Better than the champion by more than this, and by more than rounding."
    )
    tolerance: NonNegativeFloat | None = Field(None, description="Worse than the champion by no more than this.")
    confidence: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="How sure that must be, by a paired bootstrap over the images; by default, of the mean alone."
    )
    least: float | None = Field(None, description="No lower than this, whatever the champion is.")
    most: float | None = Field(None, description="No higher than this, whatever the champion is.")
    benchmark: str = Field(VALIDATION, description="The images; `validation` stands for the run's validation faces.")

    @property
    def compares(self) -> bool:
        """Whether it looks at the champion."""
        return self.minimum is not None or self.tolerance is not None

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        if self.minimum is not None and self.tolerance is not None:
            raise ValueError(
                f"a gate of {self.metric} has either minimum (better by) or tolerance (worse by), not both"
            )
        if not self.compares and self.least is None and self.most is None:
            raise ValueError(f"a gate of {self.metric} wants one of minimum, tolerance, least and most")
        if self.compares and self.direction is None:
            raise ValueError(f"a gate of {self.metric} with minimum or tolerance wants direction: lower or higher")
        if self.confidence is not None and not self.compares:
            raise ValueError(f"a gate of {self.metric} wants minimum or tolerance to be confident of")
        if self.confidence is not None and self.metric in WITHOUT_IMAGES:
            raise ValueError(f"{self.metric} is one figure of all images: there is no confidence to be had")
        if self.benchmark != VALIDATION and self.metric not in OF_EVALUATION:
            raise ValueError(f"{self.metric} is measured on the validation faces only, not on {self.benchmark}")
        return self


LOWER_LOSS = Gate(metric="validation_loss", direction="lower", minimum=0)


class StagePromotion(Settings):
    """How a stage's champion is replaced."""

    gates: tuple[Gate, ...] = Field((LOWER_LOSS,), description="All of them must hold.")
    approval: bool = Field(
        False, description="A human must approve the version, after its gates have held, before it becomes champion."
    )


class PromotionConfig(Settings):
    """What it takes to become champion."""

    dry_run: bool = Field(False, description="Decide, and record the decision, but leave the champion alone.")
    hq_codebook: StagePromotion = StagePromotion()
    lq_codebook: StagePromotion = StagePromotion()
    association: StagePromotion = StagePromotion()
    restoration: StagePromotion = StagePromotion()

    def of(self, name: StageName) -> StagePromotion:
        """Return one stage's gates."""
        promotion: StagePromotion = getattr(self, name)
        return promotion

    @model_validator(mode="after")
    def _metrics_exist(self) -> Self:
        for stage, figures in OF_TRAINING.items():
            valid = (*figures, *(OF_EVALUATION if stage == "restoration" else ()))
            for gate in self.of(stage).gates:
                if gate.metric not in valid:
                    raise ValueError(
                        f"promotion.{stage}.gates: no metric {gate.metric!r}; valid are {', '.join(valid)}"
                    )
        return self
