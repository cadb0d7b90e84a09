"""The champion is moved by one process at a time, rolled back, and moved by hand; the history records everything."""

import multiprocessing
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from daefr.errors import UserError
from pipelines.commands import main
from pipelines.tracking import champions, registry
from pipelines.tracking.champions import ROLLED_BACK
from pipelines.tracking.client import Tracking
from pipelines.tracking.promotions import HISTORY_RUN, ChampionChange, ChampionHistory

ROUNDS = 6
QUALITY = {3: 0, 1: 1, 2: 2}


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    """One database for the module: MLflow needs seconds to make one. Each test has a model of its own."""
    root = tmp_path_factory.mktemp("champions")
    return Tracking.open(f"sqlite:///{root}/mlflow.db", "daefr", str(root / "artifacts"))


def _register(tracking: Tracking, stage: str, folder: Path, versions: int) -> str:
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint/manifest.json").write_text("{}")
    for number in range(versions):
        run_id = tracking.start_run(stage, f"{stage} {number}")
        registry.register(tracking, stage, folder / "checkpoint", run_id, fingerprint=f"{stage} {number}", tags={})
    return registry.MODELS[stage]


def _entry(now: champions.ChampionState, version: int, why: str = "better") -> ChampionChange:
    return ChampionChange(kind="promoted", champion=version, replaces=now.champion, previous=now.champion, why=why)


def _promote(tracking: Tracking, model: str, version: int) -> None:
    now = champions.champion_state(tracking, model)
    assert champions.promote(tracking, now, _entry(now, version))


def _aliases(tracking: Tracking, model: str) -> tuple[int | None, int | None]:
    held = registry.aliases(tracking, model)
    return held.get("champion"), held.get("previous")


def test_the_champion_moves_and_the_one_before_is_remembered(tracking: Tracking, tmp_path: Path) -> None:
    model = _register(tracking, "hq_codebook", tmp_path, 3)
    assert _aliases(tracking, model) == (None, None)
    for version, expected in ((1, (1, None)), (2, (2, 1)), (3, (3, 2))):
        _promote(tracking, model, version)
        assert _aliases(tracking, model) == expected

    first = champions.roll_back(tracking, model, "it squints")
    assert _aliases(tracking, model) == (2, 1)
    assert (first.champion, first.replaces) == (2, 3)
    assert registry.version(tracking, "hq_codebook", 3).tags[ROLLED_BACK].endswith(": it squints")
    champions.roll_back(tracking, model, "so does this")
    assert _aliases(tracking, model) == (1, None)
    with pytest.raises(UserError, match=model):
        champions.roll_back(tracking, model, "and this")

    entries = champions.champion_state(tracking, model).entries
    assert [(entry.kind, entry.champion) for entry in entries] == [
        ("promoted", 1), ("promoted", 2), ("promoted", 3), ("rolled back", 2), ("rolled back", 1)
    ]  # fmt: skip
    assert all("@" in entry.who and entry.when.tzinfo for entry in entries)


def test_a_champion_that_was_moved_by_hand_is_respected_and_noted(tracking: Tracking, tmp_path: Path) -> None:
    model = _register(tracking, "lq_codebook", tmp_path, 3)
    tracking.client.set_registered_model_alias(model, "champion", "2")  # before there was any promotion
    assert champions.champion_state(tracking, model).champion == 2
    _promote(tracking, model, 3)
    tracking.client.set_registered_model_alias(model, "champion", "1")
    now = champions.champion_state(tracking, model)
    assert [entry.kind for entry in now.entries] == ["moved by hand", "promoted", "moved by hand"]
    assert _aliases(tracking, model) == (1, 3)
    champions.roll_back(tracking, model, "a mistake")
    assert _aliases(tracking, model) == (3, 2)
    tracking.client.delete_model_version(model, "3")
    assert champions.champion_state(tracking, model).champion is None


def test_what_a_killed_process_left_half_done_is_finished_by_the_next(tracking: Tracking, tmp_path: Path) -> None:
    model = _register(tracking, "association", tmp_path, 2)
    _promote(tracking, model, 1)
    now = champions.champion_state(tracking, model)
    assert ChampionHistory.open(tracking, model).append(1, _entry(now, 2))  # killed before it moves the alias
    assert _aliases(tracking, model) == (1, None)
    assert not champions.promote(tracking, now, _entry(now, 2)), "the champion has changed"
    assert champions.champion_state(tracking, model).champion == 2
    assert _aliases(tracking, model) == (2, 1)


def _race(tracking: Tracking, model: str, version: int, start: Any, answers: Any) -> None:
    now = champions.champion_state(tracking, model)
    start.wait()
    won = champions.promote(tracking, now, _entry(now, version))
    answers.put((version, won, len(champions.champion_state(tracking, model).entries)))


def _race_through_the_gates(tracking: Tracking, model: str, version: int, start: Any, answers: Any) -> None:
    """Like the step: the loser is compared again, with the new champion."""
    start.wait()
    decisions = 0
    while True:
        now = champions.champion_state(tracking, model)
        decisions += 1
        better = QUALITY[version] > QUALITY[now.champion or 3]
        if not better or champions.promote(tracking, now, _entry(now, version)):
            break
    answers.put((version, better, decisions))


def _at_the_same_moment(race: Any, tracking: Tracking, model: str, versions: list[int]) -> dict[int, tuple[bool, int]]:
    context = multiprocessing.get_context("fork")
    start, answers = context.Barrier(len(versions)), context.Queue()
    copy = Tracking(tracking.uri, tracking.experiment_id)
    processes = [context.Process(target=race, args=(copy, model, version, start, answers)) for version in versions]
    for process in processes:
        process.start()
    results = [answers.get(timeout=60) for _ in versions]
    for process in processes:
        process.join(60)
    return {version: (won, number) for version, won, number in results}


def test_of_two_promotions_at_the_same_moment_one_wins(tracking: Tracking, tmp_path: Path) -> None:
    model = _register(tracking, "restoration", tmp_path, 3)
    _promote(tracking, model, 3)
    winners: Counter[int] = Counter()
    for number in range(ROUNDS):
        results = _at_the_same_moment(_race, tracking, model, [1, 2])
        (winner,) = [version for version, (won, _) in results.items() if won]
        winners[winner] += 1
        entries = champions.champion_state(tracking, model).entries
        assert len(entries) == 2 * number + 2
        assert entries[-1].champion == winner
        assert _aliases(tracking, model) == (winner, 3)
        _promote(tracking, model, 3)
    assert sum(winners.values()) == ROUNDS


def test_the_loser_is_judged_again_beside_the_new_champion(tracking: Tracking) -> None:
    model = registry.MODELS["restoration"]
    for _ in range(ROUNDS):
        results = _at_the_same_moment(_race_through_the_gates, tracking, model, [1, 2])
        assert results[2][0], "the better one must win, whoever is first"
        assert _aliases(tracking, model)[0] == 2
        assert champions.champion_state(tracking, model).entries[-1].champion == 2
        _promote(tracking, model, 3)


def test_models_that_are_made_at_the_same_moment_have_one_journal(tracking: Tracking, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    (tmp_path / "manifest.json").write_text("{}")
    copy = Tracking(tracking.uri, tracking.experiment_id)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.MODELS, "new", "daefr-new")
        start = context.Barrier(3)

        def make(number: int) -> None:
            run_id = copy.start_run("new", str(number))
            start.wait()
            registry.register(copy, "new", tmp_path, run_id, fingerprint=str(number), tags={})

        processes = [context.Process(target=make, args=(number,)) for number in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(tracking.client.search_model_versions("name = 'daefr-new'")) == 3
    journal = tracking.client.get_registered_model("daefr-new").tags[HISTORY_RUN]
    (run,) = tracking.client.search_runs([tracking.experiment_id], "tags.`daefr.model` = 'daefr-new'")
    assert run.info.run_id == journal


def test_the_command_rolls_back_and_tells_the_history(tracking: Tracking, capsys: pytest.CaptureFixture[str]) -> None:
    def command(*arguments: str, uri: str = tracking.uri) -> tuple[int, str, str]:
        code = main(["promote", *arguments, f"tracking.uri={uri}"])
        return code, *capsys.readouterr()

    code, _, err = command("--rollback", "hq_codebook", "--why", "again")
    assert code == 2
    assert "daefr-hq-codebook" in err
    code, out, _ = command("history", "hq_codebook")
    assert code == 0
    (line,) = [line for line in out.splitlines() if "models:/daefr-hq-codebook/2 rolled back" in line]
    assert line.endswith("3")
    assert "    it squints\n" in out
    code, out, _ = command("approve", "models:/daefr-hq-codebook/2")
    assert code == 0
    assert registry.version(tracking, "hq_codebook", 2).tags[champions.APPROVED]
    code, _, err = command("history", "restoration", "workdir=/nowhere", uri="null")
    assert code == 2
    assert "/nowhere/mlflow.db" in err


def test_a_deleted_history_is_an_error(tracking: Tracking, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.MODELS, "other", "daefr-other")
        model = _register(tracking, "other", tmp_path, 1)
    tracking.client.delete_run(tracking.client.get_registered_model(model).tags[HISTORY_RUN])
    now = champions.champion_state(tracking, model)
    started = time.monotonic()
    with pytest.raises(UserError, match=tracking.client.get_registered_model(model).tags[HISTORY_RUN]):
        champions.promote(tracking, now, _entry(now, 1))
    assert time.monotonic() - started < 10
