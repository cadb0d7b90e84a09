"""Step: promote a stage's candidate to champion if its gates pass."""

from dataclasses import dataclass
from typing import Any

from pipelines.engine.progress import say
from pipelines.engine.step import Step, StepContext, StepInput, StepOutput, StepResult
from pipelines.promote.gates import Decision
from pipelines.promote.request import PromotionRequest
from pipelines.tracking import champions, registry
from pipelines.tracking.champions import APPROVED, ROLLED_BACK, ChampionState
from pipelines.tracking.client import Tracking
from pipelines.tracking.promotions import ChampionChange
from pipelines.tracking.registry import Version

PROMOTED, REFUSED, NEEDS_APPROVAL, DRY_RUN = "promoted", "refused", "waits for approval", "would be promoted"


@dataclass(frozen=True)
class Promote(Step):
    """Decides on a promotion request, and moves the champion."""

    request: PromotionRequest
    champion: Version | None
    """The champion when the step was created; the decision is made against the current one."""
    dry_run: bool
    evaluation: dict[str, Any]
    """The settings of evaluation, which matter if a gate needs one."""

    version = 2

    @property
    def name(self) -> str:
        """See `Step`."""
        return f"promote_{self.request.stage}"

    @property
    def command(self) -> str:
        """See `Step`."""
        return f"python -m pipelines promote --stage {self.request.stage}"

    def settings(self) -> dict[str, Any]:
        """See `Step`."""
        tags = self.request.candidate.tags
        settings = self.request.policy.model_dump(mode="json") | {
            "dry_run": self.dry_run,
            "approved": tags.get(APPROVED),
            "rolled_back": tags.get(ROLLED_BACK),
        }
        return settings | ({"evaluation": self.evaluation} if self.request.needs_evaluation else {})

    def inputs(self) -> dict[str, StepInput]:
        """See `Step`."""
        inputs = {"trained": self.request.trained.as_input(), "dataset": self.request.dataset.as_input()}
        if self.champion is not None:
            inputs["champion"] = StepInput(digest=self.champion.fingerprint, origin=self.champion.address)
        return inputs

    def run(self, context: StepContext) -> StepOutput:
        """See `Step`."""
        outcome, decision = self._promote(context)
        self._record(context, outcome, decision)
        return StepOutput(
            {
                "version": self.request.candidate.number,
                "outcome": outcome,
                "reason": decision.reason,
                "unavailable": any(result.unavailable for result in decision.results),
            }
        )

    def is_still_valid(self, result: StepResult) -> bool:
        """See `Step`: only a refusal for which all metrics were available.

        If the version was promoted, this is called when it is no longer the champion.
        """
        return bool(result.outputs["outcome"] != PROMOTED and not result.outputs["unavailable"])

    def describe(self, result: StepResult) -> str:
        """Return the decision in one line."""
        outcome, reason = result.outputs["outcome"], result.outputs["reason"]
        verb = "" if outcome in (NEEDS_APPROVAL, DRY_RUN) else "is "
        return f"{self.request.candidate.address} {verb}{outcome}: {reason}"

    def _promote(self, context: StepContext) -> tuple[str, Decision]:
        """Decide and move the champion; decide again if another run has moved it in the meantime."""
        request, candidate, tracking = self.request, self.request.candidate, context.tracking
        while True:
            state = champions.champion_state(tracking, candidate.name)
            if state.champion == candidate.number:
                return PROMOTED, Decision(remark="promoted by another run")
            decision = request.decide(tracking, champion_of(tracking, request, state))
            if not decision.promoted:
                return REFUSED, decision
            if self.dry_run:
                return DRY_RUN, decision
            if request.policy.require_approval and APPROVED not in candidate.tags:
                return NEEDS_APPROVAL, decision
            change = ChampionChange(
                kind="promoted",
                champion=candidate.number,
                replaces=state.champion,
                previous=state.champion,
                why=decision.reason,
                metrics=decision.metrics,
                run_id=context.run_id,
            )
            if champions.promote(tracking, state, change):
                return PROMOTED, decision
            say(f"{candidate.address}: another run has moved the champion; deciding again")

    def _record(self, context: StepContext, outcome: str, decision: Decision) -> None:
        """Record the decision, and every gate's reason and metric, on the version and the step's MLflow run."""
        candidate, tracking, text = self.request.candidate, context.tracking, f"{outcome}: {decision.reason}"
        tracking.client.set_model_version_tag(candidate.name, str(candidate.number), "daefr.gate", text[:5000])
        tracking.set_tag(context.run_id, "daefr.gate", text)
        for number, result in enumerate(decision.results, 1):
            line = f"{'passed' if result.passed else 'failed'}: {result.reason}"
            tracking.set_tag(context.run_id, f"daefr.gate.{number}", line)
            say(f"gate {line}")
        with context.writer() as writer:
            for name, (ours, theirs) in decision.metrics.items():
                values = {f"candidate/{name}": ours, f"champion/{name}": theirs}
                writer.log(0, {key: value for key, value in values.items() if value is not None})


def champion_of(tracking: Tracking, request: PromotionRequest, state: ChampionState) -> Version | None:
    """Return the version that is the champion in a state."""
    return None if state.champion is None else registry.version(tracking, request.stage, state.champion)
