"""Settings of promotion: the gates of each stage."""

from typing import Annotated, Literal, Self, cast, get_args

from pydantic import Field, NonNegativeFloat, model_validator

from daefr.settings.base import Settings, StageName
from daefr.settings.metrics import MetricName
from pipelines.engine.names import VALIDATION

TRAINING_METRICS: dict[StageName, tuple[str, ...]] = {
    "hq_codebook": ("validation_loss", "dead_codes", "codebook_perplexity"),
    "lq_codebook": ("validation_loss", "dead_codes", "codebook_perplexity"),
    "association": (
        "validation_loss",
        *(f"{codebook}_{name}" for codebook in ("hq", "lq") for name in ("dead_codes", "codebook_perplexity")),
    ),
    "restoration": ("validation_loss", "dead_codes", "codebook_perplexity"),
}
"""The metrics that training computes on the validation faces, each one value for all of them."""

EVALUATION_METRICS = ("psnr", "ssim", "lpips", "lpips_01", "niqe", "ida", "lmd", "fid")
"""The metrics of restored faces, which the step `evaluate` computes: per image, except for FID."""


def base_metric(name: str) -> MetricName:
    """Return the metric that one of `EVALUATION_METRICS` belongs to; LPIPS has two under the paper's protocol."""
    (metric,) = [metric for metric in get_args(MetricName) if metric == name.removesuffix("_01")]
    return cast(MetricName, metric)


METRICS_WITHOUT_IMAGES = (*dict.fromkeys(name for names in TRAINING_METRICS.values() for name in names), "fid")


class Gate(Settings):
    """A condition on one metric of a candidate, by itself or compared with the champion."""

    metric: str = Field(
        description="Name of the metric, such as validation_loss, dead_codes (a fraction of all codes), lpips or ida."
    )
    direction: Literal["lower", "higher"] | None = Field(
        None, description="Whether lower or higher values are better; required for comparisons with the champion."
    )
    min_improvement: NonNegativeFloat | None = Field(
        None, description="The candidate must be better than the champion by more than this, in the metric's unit."
    )
    max_regression: NonNegativeFloat | None = Field(
        None, description="The candidate may be worse than the champion by at most this, in the metric's unit."
    )
    confidence: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Confidence level, such as 0.95, of the paired bootstrap interval over the images that must "
        "satisfy the comparison. By default, only the means are compared.",
    )
    min_value: float | None = Field(
        None, description="The candidate's value must be at least this, whatever the champion's is."
    )
    max_value: float | None = Field(
        None, description="The candidate's value must be at most this, whatever the champion's is."
    )
    benchmark: str = Field(
        VALIDATION,
        description="Name of the benchmark on which the metric is computed; `validation` is the run's validation "
        "faces.",
    )

    @property
    def compares(self) -> bool:
        """Whether the gate compares the candidate with the champion."""
        return self.min_improvement is not None or self.max_regression is not None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.min_improvement is not None and self.max_regression is not None:
            raise ValueError(f"a gate of {self.metric} takes either min_improvement or max_regression, not both")
        if not self.compares and self.min_value is None and self.max_value is None:
            raise ValueError(
                f"a gate of {self.metric} requires min_improvement, max_regression, min_value or max_value"
            )
        if self.compares and self.direction is None:
            raise ValueError(
                f"a gate of {self.metric} with min_improvement or max_regression requires direction: lower or higher"
            )
        if self.confidence is not None and not self.compares:
            raise ValueError(f"a gate of {self.metric} with confidence requires min_improvement or max_regression")
        if self.confidence is not None and self.metric in METRICS_WITHOUT_IMAGES:
            raise ValueError(
                f"{self.metric} is one value for all images, so confidence cannot be computed: remove confidence"
            )
        if self.benchmark != VALIDATION and self.metric not in EVALUATION_METRICS:
            raise ValueError(f"{self.metric} is computed on the validation faces only, not on {self.benchmark}")
        return self


LOWER_LOSS = Gate(metric="validation_loss", direction="lower", min_improvement=0)


class StagePromotion(Settings):
    """How a stage's champion is replaced."""

    gates: tuple[Gate, ...] = Field(
        (LOWER_LOSS,), description="Conditions that must all hold for a candidate to become the champion."
    )
    require_approval: bool = Field(
        False,
        description="Whether a version that passes its gates also needs a human's approval to become the champion.",
    )


class PromotionConfig(Settings):
    """What a candidate must satisfy to become the champion."""

    dry_run: bool = Field(False, description="Whether decisions are only recorded, without changing the champion.")
    hq_codebook: StagePromotion = Field(StagePromotion(), description="Promotion of the HQ codebook (stage 1a).")
    lq_codebook: StagePromotion = Field(StagePromotion(), description="Promotion of the LQ codebook (stage 1b).")
    association: StagePromotion = Field(StagePromotion(), description="Promotion of the association (stage 2).")
    restoration: StagePromotion = Field(StagePromotion(), description="Promotion of the restoration (stage 3).")

    def of(self, name: StageName) -> StagePromotion:
        """Return one stage's gates."""
        promotion: StagePromotion = getattr(self, name)
        return promotion

    @model_validator(mode="after")
    def _metrics_exist(self) -> Self:
        for stage, names in TRAINING_METRICS.items():
            valid = (*names, *(EVALUATION_METRICS if stage == "restoration" else ()))
            for gate in self.of(stage).gates:
                if gate.metric not in valid:
                    raise ValueError(
                        f"promotion.{stage}.gates: unknown metric {gate.metric!r}; choose one of {', '.join(valid)}"
                    )
        return self
