"""Moving `champion` and `previous`: by a promotion, back by a rollback, and after somebody moved them by hand."""

import time
from dataclasses import dataclass

from daefr.errors import UserError
from pipelines.tracking import registry
from pipelines.tracking.client import Tracking
from pipelines.tracking.promotions import Entry, Journal
from pipelines.tracking.registry import CHAMPION, PREVIOUS

APPROVED = "daefr.approved"
"""The tag of a version that a human has approved, and how."""
ROLLED_BACK = "daefr.rolled_back"
"""The tag of a version that was champion and was taken back, and why: no gate lets it pass."""

# a process that was held up between the journal and the alias puts that right within its next requests
SECONDS_TO_SETTLE = 2.0


@dataclass(frozen=True)
class ChampionState:
    """Which version is the champion of a model, and the entries of its journal until then."""

    model: str
    entries: tuple[Entry, ...]

    @property
    def champion(self) -> int | None:
        """The number of the version in service."""
        return self.entries[-1].champion if self.entries else None

    @property
    def previous(self) -> int | None:
        """The number of the version that a rollback would return to."""
        return self.entries[-1].previous if self.entries else None


def champion_state(tracking: Tracking, model: str) -> ChampionState:
    """Return the state of a model, after completing interrupted changes and recording aliases moved by hand."""
    journal, seen = Journal.of(tracking, model), None
    while True:
        entries = journal.entries()
        if journal.settled < len(entries):
            _settle(tracking, model, journal)
        now = ChampionState(model, tuple(entries))
        held = registry.aliases(tracking, model).get(CHAMPION)
        if held == now.champion:
            return now
        if seen != (len(entries), held):  # perhaps moved by another process at this moment
            seen = (len(entries), held)
            time.sleep(SECONDS_TO_SETTLE if entries else 0)
            continue
        why = "the alias was found on another version than the journal's"
        entry = Entry(kind="moved by hand", champion=held, replaces=now.champion, previous=now.champion, why=why)
        if journal.append(len(entries), entry):
            _settle(tracking, model, journal)


def promote(tracking: Tracking, decided_in: ChampionState, entry: Entry) -> bool:
    """Make a version the champion, if the champion is still the one that was decided against; return whether it was."""
    journal = Journal.of(tracking, decided_in.model)
    if not journal.append(len(decided_in.entries), entry):
        return False
    _settle(tracking, decided_in.model, journal)
    return True


def roll_back(tracking: Tracking, model: str, why: str) -> Entry:
    """Put the version before the champion into service again, and mark the one that was taken back.

    Raises `UserError` when there is nothing to go back to.
    """
    journal = Journal.of(tracking, model)
    while True:
        now = champion_state(tracking, model)
        if now.champion is None or now.previous is None:
            raise UserError(f"{model} cannot be rolled back: before its champion there was none")
        registry.resolve(tracking, f"models:/{model}/{now.previous}")
        entry = Entry(
            kind="rolled back",
            champion=now.previous,
            replaces=now.champion,
            previous=_before(now.entries, now.previous),
            why=why,
        )
        if journal.append(len(now.entries), entry):
            _settle(tracking, model, journal)
            tracking.client.set_model_version_tag(model, str(now.champion), ROLLED_BACK, f"{entry.who}: {why}")
            return entry


def _before(entries: tuple[Entry, ...], version: int) -> int | None:
    """Return the version that `version` replaced when it last came into service other than by a rollback."""
    came = [entry for entry in entries if entry.champion == version and entry.kind != "rolled back"]
    return came[-1].replaces if came else None


def _settle(tracking: Tracking, model: str, journal: Journal) -> None:
    """Bring the aliases to where the journal says they belong, also when others write to it meanwhile."""
    while True:
        entries = journal.entries()
        last = entries[-1]
        registry.move_alias(tracking, model, PREVIOUS, last.previous)
        registry.move_alias(tracking, model, CHAMPION, last.champion)
        if len(journal.entries()) == len(entries):
            journal.settle(len(entries))
            journal.describe(table(tuple(entries)))
            return


def table(entries: tuple[Entry, ...]) -> str:
    """Return entries as a Markdown table, the newest first."""
    lines = ["| when | who | what | champion | before | why |", "| --- | --- | --- | --- | --- | --- |"]
    for entry in reversed(entries):
        cells = [f"{entry.when:%Y-%m-%d %H:%M:%S} UTC", entry.who, entry.kind, _shown(entry.champion),
                 _shown(entry.replaces), entry.why]  # fmt: skip
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


def _shown(number: int | None) -> str:
    return "none" if number is None else str(number)
