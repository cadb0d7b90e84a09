"""Moves the aliases `champion` and `previous`, for promotions and rollbacks and after they were moved by hand."""

import time
from dataclasses import dataclass

from daefr.errors import UserError
from pipelines.tracking import registry
from pipelines.tracking.client import Tracking
from pipelines.tracking.promotions import ChampionChange, ChampionHistory
from pipelines.tracking.registry import CHAMPION, PREVIOUS

APPROVED = "daefr.approved"
"""The tag of an approved version: who approved it."""
ROLLED_BACK = "daefr.rolled_back"
"""The tag of a version that was rolled back: who did it and why. It is not promoted again."""

# long enough for another process to move the alias after it has written to the history
SETTLE_SECONDS = 2.0


@dataclass(frozen=True)
class ChampionState:
    """Which version is the champion of a model, and all changes so far."""

    model: str
    entries: tuple[ChampionChange, ...]

    @property
    def champion(self) -> int | None:
        """The number of the champion."""
        return self.entries[-1].champion if self.entries else None

    @property
    def previous(self) -> int | None:
        """The number of the version that a rollback would return to."""
        return self.entries[-1].previous if self.entries else None


def champion_state(tracking: Tracking, model: str) -> ChampionState:
    """Return the state of a model, after completing interrupted changes and recording aliases moved by hand."""
    history, seen = ChampionHistory.open(tracking, model), None
    while True:
        entries = history.entries()
        if history.applied < len(entries):
            _apply(tracking, model, history)
        state = ChampionState(model, tuple(entries))
        alias = registry.aliases(tracking, model).get(CHAMPION)
        if alias == state.champion:
            return state
        if seen != (len(entries), alias):  # another process may be about to move the alias
            seen = (len(entries), alias)
            time.sleep(SETTLE_SECONDS if entries else 0)
            continue
        why = "the alias did not match the history"
        champion = state.champion
        change = ChampionChange(kind="moved by hand", champion=alias, replaces=champion, previous=champion, why=why)
        if history.append(len(entries), change):
            _apply(tracking, model, history)


def promote(tracking: Tracking, decided_in: ChampionState, change: ChampionChange) -> bool:
    """Make a version the champion and return True, unless the champion has changed since the decision."""
    history = ChampionHistory.open(tracking, decided_in.model)
    if not history.append(len(decided_in.entries), change):
        return False
    _apply(tracking, decided_in.model, history)
    return True


def roll_back(tracking: Tracking, model: str, why: str) -> ChampionChange:
    """Make the previous champion the champion again, and mark the current one as rolled back.

    Raises `UserError` if there is no previous champion.
    """
    history = ChampionHistory.open(tracking, model)
    while True:
        state = champion_state(tracking, model)
        if state.champion is None or state.previous is None:
            raise UserError(f"{model} cannot be rolled back: it has no previous champion")
        registry.resolve(tracking, f"models:/{model}/{state.previous}")
        change = ChampionChange(
            kind="rolled back",
            champion=state.previous,
            replaces=state.champion,
            previous=_predecessor(state.entries, state.previous),
            why=why,
        )
        if history.append(len(state.entries), change):
            _apply(tracking, model, history)
            tracking.client.set_model_version_tag(model, str(state.champion), ROLLED_BACK, f"{change.who}: {why}")
            return change


def _predecessor(entries: tuple[ChampionChange, ...], version: int) -> int | None:
    """Return the version that `version` replaced when it last became the champion, except by a rollback."""
    promotions = [entry for entry in entries if entry.champion == version and entry.kind != "rolled back"]
    return promotions[-1].replaces if promotions else None


def _apply(tracking: Tracking, model: str, history: ChampionHistory) -> None:
    """Move the aliases to the state of the history, also while other processes write to it."""
    while True:
        entries = history.entries()
        last = entries[-1]
        registry.move_alias(tracking, model, PREVIOUS, last.previous)
        registry.move_alias(tracking, model, CHAMPION, last.champion)
        if len(history.entries()) == len(entries):
            history.mark_applied(len(entries))
            history.describe(table(tuple(entries)))
            return


def table(entries: tuple[ChampionChange, ...]) -> str:
    """Return changes as a Markdown table, newest first."""
    lines = ["| time | user | change | champion | before | reason |", "| --- | --- | --- | --- | --- | --- |"]
    for entry in reversed(entries):
        cells = [f"{entry.when:%Y-%m-%d %H:%M:%S} UTC", entry.who, entry.kind, _shown(entry.champion),
                 _shown(entry.replaces), entry.why]  # fmt: skip
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


def _shown(number: int | None) -> str:
    return "none" if number is None else str(number)
