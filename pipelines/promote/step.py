"""Step: let a stage's gates decide whether its candidate becomes champion.

Instead of --stage, a first argument `rollback`, `history`, `approve` or `lineage` is what people do with champions;
each has a --help of its own.
"""

import argparse
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from daefr.data.manifest import load_manifest
from daefr.settings.base import StageName
from pipelines.engine.command import StageCommand
from pipelines.engine.progress import say
from pipelines.engine.run import Run
from pipelines.engine.step import Committed, StepInput
from pipelines.engine.tasks import run_task
from pipelines.evaluate.step import evaluate_version
from pipelines.promote import validation
from pipelines.promote.computed import Computed
from pipelines.promote.evaluated import figure as evaluation_figure
from pipelines.promote.gates import Decision, Figure, Figures, decide
from pipelines.promote.settings import OF_EVALUATION, Gate, StagePromotion
from pipelines.synthesize.step import DATASET, shard_cache, synthesize
from pipelines.tracking import champions, registry
from pipelines.tracking.champions import APPROVED, ROLLED_BACK, Reign
from pipelines.tracking.promotions import Entry
from pipelines.tracking.registry import Version
from pipelines.train.step import train_with_upstream

VERSION = 2
PROMOTED, REFUSED, HELD, WOULD_BE = "promoted", "refused", "waits for approval", "would be promoted"


@dataclass(frozen=True)
class Candidacy:
    """A candidate, the training that made it, and the dataset on which it is compared."""

    run: Run
    stage: StageName
    version: Version
    trained: Committed
    dataset: Committed

    @property
    def terms(self) -> StagePromotion:
        """What it takes."""
        return self.run.config.promotion.of(self.stage)


def promote(run: Run, name: StageName, trained: Committed, dataset: Committed) -> str:
    """Make the trained version the champion of its stage if the gates hold; return the decision in a line."""
    candidate = registry.version(run.tracking, name, trained.manifest.outputs["version"])
    candidacy = Candidacy(run, name, candidate, trained, dataset)
    champion = _version(candidacy, champions.reign(run.tracking, candidate.name))
    if champion is not None and champion.number == candidate.number:
        return f"{candidate.address} is the champion"
    settings = candidacy.terms.model_dump(mode="json") | {
        "dry_run": run.config.promotion.dry_run,
        "approved": candidate.tags.get(APPROVED),
        "rolled_back": candidate.tags.get(ROLLED_BACK),
    }
    if any(gate.metric in OF_EVALUATION for gate in candidacy.terms.gates):
        settings["evaluation"] = run.config.evaluation.model_dump(mode="json")
    inputs = {"trained": trained.as_input(), "dataset": dataset.as_input()}
    if champion is not None:
        inputs["champion"] = StepInput(digest=champion.fingerprint, origin=champion.address)

    def work(_: Path, run_id: str) -> tuple[dict[str, Any], list[str]]:
        outcome, decision = _promote(candidacy, run_id)
        _record(candidacy, outcome, decision, run_id)
        unavailable = any(verdict.unavailable for verdict in decision.verdicts)
        return {
            "version": candidate.number, "outcome": outcome, "reason": decision.reason, "unavailable": unavailable
        }, []  # fmt: skip

    decided = run.step(f"promote_{name}", VERSION, settings, inputs, work, holds=_stands).manifest.outputs
    verb = "" if decided["outcome"] in (HELD, WOULD_BE) else "is "
    return f"{candidate.address} {verb}{decided['outcome']}: {decided['reason']}"


def _promote(candidacy: Candidacy, run_id: str) -> tuple[str, Decision]:
    """Decide, and move the champion; decide again where another run has moved it meanwhile."""
    run, candidate = candidacy.run, candidacy.version
    while True:
        now = champions.reign(run.tracking, candidate.name)
        if now.champion == candidate.number:
            return PROMOTED, Decision(remark="another run has promoted it")
        decision = _decide(candidacy, _version(candidacy, now))
        if not decision.promoted:
            return REFUSED, decision
        if run.config.promotion.dry_run:
            return WOULD_BE, decision
        if candidacy.terms.approval and APPROVED not in candidate.tags:
            return HELD, decision
        entry = Entry(
            kind="promoted",
            champion=candidate.number,
            replaces=now.champion,
            previous=now.champion,
            why=decision.reason,
            figures=decision.figures,
            run_id=run_id,
        )
        if champions.promote(run.tracking, now, entry):
            return PROMOTED, decision
        say(f"{candidate.address}: another run has moved the champion meanwhile: deciding again, against the new one")


def _decide(candidacy: Candidacy, champion: Version | None) -> Decision:
    gates, candidate = candidacy.terms.gates, candidacy.version
    if ROLLED_BACK in candidate.tags:
        return Decision(
            refusal=f"it was rolled back ({candidate.tags[ROLLED_BACK]}): delete its tag {ROLLED_BACK} first"
        )
    mine = _figures(candidacy, candidate, candidacy.trained.manifest.outputs, validation.computed(candidate))
    if champion is None:
        return decide(gates, mine, None, "there is no champion")
    measured, computed = _measured(candidacy, champion)
    if measured is None:
        size = candidacy.run.config.resolution
        return decide(gates, mine, None, f"the champion {champion.address} is for other image sizes than {size}")
    return decide(gates, mine, _figures(candidacy, champion, measured, computed))


def _figures(
    candidacy: Candidacy, version: Version, measured: validation.Measured, computed: Computed | None
) -> Figures:
    """Return a version's figures: those of its validation, and of an evaluation that is made when a gate needs it."""

    @cache
    def evaluated() -> Committed:
        return evaluate_version(replace(candidacy.run, only=None), version, candidacy.dataset)

    def figure(gate: Gate) -> Figure:
        if gate.metric in OF_EVALUATION:
            return evaluation_figure(evaluated(), gate)
        return validation.figure(measured, gate, computed)

    return figure


def _measured(candidacy: Candidacy, champion: Version) -> tuple[validation.Measured | None, Computed | None]:
    """Return what validation says of the champion on the candidate's images, and how that was computed.

    There is no validation where it cannot take them.
    """
    run, folder = candidacy.run, candidacy.dataset.folder / DATASET
    training = run.config.stages.of(candidacy.stage)
    recorded = validation.recorded(champion, load_manifest(folder), training)
    if recorded is not None:
        return recorded, validation.computed(champion)
    arguments = (run.tracking, champion, training, folder, shard_cache(run, folder))
    measured = run_task(f"promote_{candidacy.stage}", validation.measure, *arguments)
    return measured, validation.MEASURED_HERE


def _record(candidacy: Candidacy, outcome: str, decision: Decision, run_id: str) -> None:
    """Put the decision, every gate's reason and every figure where people look for them."""
    run, candidate, text = candidacy.run, candidacy.version, f"{outcome}: {decision.reason}"
    run.tracking.client.set_model_version_tag(candidate.name, str(candidate.number), "daefr.gate", text[:5000])
    run.tracking.link(run_id, "daefr.gate", text)
    for number, verdict in enumerate(decision.verdicts, 1):
        line = f"{'holds' if verdict.holds else 'fails'}: {verdict.reason}"
        run.tracking.link(run_id, f"daefr.gate.{number}", line)
        say(f"gate {line}")
    with run.writer(run_id) as writer:
        for name, (ours, theirs) in decision.figures.items():
            values = {f"candidate/{name}": ours, f"champion/{name}": theirs}
            writer.log(0, {key: value for key, value in values.items() if value is not None})


def _version(candidacy: Candidacy, reign: Reign) -> Version | None:
    number = reign.champion
    return None if number is None else registry.version(candidacy.run.tracking, candidacy.stage, number)


def _stands(decided: Committed) -> bool:
    """Tell whether a decision need not be made again.

    What was promoted is champion no more, when this is asked; and a figure that was missing may be had by now.
    """
    outputs = decided.manifest.outputs
    return bool(outputs["outcome"] != PROMOTED and not outputs["unavailable"])


class _Promote(StageCommand):
    name = "promote"

    def steps(self, options: argparse.Namespace) -> tuple[str, ...]:
        return (f"promote_{options.stage}",)

    def work(self, run: Run, options: argparse.Namespace) -> list[str]:
        dataset = synthesize(run)
        return [promote(run, options.stage, train_with_upstream(run, options.stage, dataset), dataset)]


COMMAND = _Promote()
