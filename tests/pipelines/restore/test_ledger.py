"""What becomes of inputs is remembered, whatever happens between two starts."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from daefr.errors import UserError
from daefr.restore import result_name
from pipelines.restore.ledger import Input, Ledger, Outcome
from pipelines.restore.settings import RestoreConfig
from pipelines.restore.worker import results_of
from pipelines.storage.files import File


def _file(name: str, stamp: str = "1") -> File:
    return File(name, f"/in/{name}", 10, stamp)


_result = results_of(RestoreConfig())


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(tmp_path / "inputs.db")
    made.plan((_file(f"{number}.jpg") for number in range(10)), _result)
    return made


def _names(groups: list[list[Input]]) -> list[list[str]]:
    return [[given.file.name.removesuffix(".jpg") for given in group] for group in groups]


def test_all_inputs_are_in_groups_of_a_size(ledger: Ledger) -> None:
    assert ledger.begin(4, whole=False) == 3
    groups = list(ledger.groups(4))
    assert _names(groups) == [["0", "1", "2", "3"], ["4", "5", "6", "7"], ["8", "9"]]
    assert groups[0][0] == Input(1, _file("0.jpg"), "0.jpg.png")


def test_what_is_recorded_meanwhile_does_not_change_the_groups(ledger: Ledger) -> None:
    ledger.begin(4, whole=False)
    groups = ledger.groups(4)
    first = next(groups)
    ledger.record(Outcome(number, "restored", "there", 1) for number in range(1, 8))
    assert _names([first, *groups]) == _names(list(ledger.groups(4)))


def test_another_start_goes_on_with_what_is_unfinished_failed_or_changed(ledger: Ledger) -> None:
    ledger.record([Outcome(number, "restored", "there", 1) for number in range(1, 8)])
    ledger.record([Outcome(2, "failed", reason="damaged"), Outcome(8, "no face")])
    again = Ledger(ledger.path)
    again.plan((_file(f"{number}.jpg", stamp="2" if number == 4 else "1") for number in range(11)), _result)
    again.begin(4, whole=False)
    assert _names(list(again.groups(4))) == [["1"], ["4"], ["8", "9", "10"]]
    assert again.counts() == {"inputs": 11, "restored": 5, "no face": 1, "failed": 0, "unfinished": 5}


def test_groups_that_are_done_as_a_whole_are_done_again_as_a_whole(ledger: Ledger) -> None:
    ledger.record(Outcome(number, "restored", "there", 1) for number in (1, 2, 3, 5, 6, 7, 8))
    assert ledger.begin(4, whole=True) == 2
    assert _names(list(ledger.groups(4))) == [["0", "1", "2", "3"], ["8", "9"]]


def test_what_has_lost_its_result_is_done_again(ledger: Ledger) -> None:
    ledger.record([Outcome(1, "restored", "0.png", 1), Outcome(2, "no face", "1.jpg"), Outcome(3, "restored", "2.png")])
    ledger.record([Outcome(4, "restored", "a.tar/4.png", 1, file="a.tar"), Outcome(5, "failed", reason="damaged")])
    assert ledger.forget_missing(["0.png", "a.tar", "another"]) == 2
    ledger.begin(100, whole=False)
    assert [given.number for group in ledger.groups(100) for given in group] == [2, 3, *range(6, 11)]


def test_inputs_that_are_gone_are_forgotten(ledger: Ledger) -> None:
    ledger.plan([_file("3.jpg")], _result)
    assert ledger.counts()["inputs"] == 1


def _results(ledger: Ledger) -> dict[str, str]:
    ledger.begin(100, whole=False)
    return {given.file.name: given.result for group in ledger.groups(100) for given in group}


def test_results_are_named_as_the_command_names_them(ledger: Ledger) -> None:
    names = ["a/x.jpg", "a/x.webp", "X.png", "x.bmp", "x.bmp.jpg", "y.jpg", "a.b/no suffix", "z.", "ä.JPG"]
    ledger.plan(map(_file, names), _result)
    assert _results(ledger) == {name: result_name(name, "png") for name in names}
    ledger.plan(map(_file, names), results_of(RestoreConfig(format="same", suffix="_r")))
    assert _results(ledger) == {name: result_name(name, "same", "_r") for name in names}


def test_a_result_lies_below_its_place_whatever_its_object_is_called(ledger: Ledger) -> None:
    ledger.plan(map(_file, ["/etc/x.jpg", "//y.png"]), _result)
    assert _results(ledger) == {"/etc/x.jpg": "etc/x.jpg.png", "//y.png": "y.png"}
    with pytest.raises(UserError, match=r"//x.jpg and /x.jpg would have the same result"):
        ledger.plan(map(_file, ["/x.jpg", "//x.jpg"]), _result)


def test_a_result_of_another_name_is_made_again(ledger: Ledger) -> None:
    ledger.record(Outcome(number, "restored", "there", 1) for number in range(1, 11))
    ledger.plan(map(_file, ["3.jpg", "4.jpg", "3.png"]), _result)
    assert _results(ledger) == {"3.png": "3.png"}
    ledger.plan(map(_file, ["3.jpg", "4.jpg"]), results_of(RestoreConfig(format="jpg")))
    assert _results(ledger) == {"3.jpg": "3.jpg", "4.jpg": "4.jpg"}


def test_a_listing_that_breaks_off_changes_nothing(ledger: Ledger) -> None:
    def listing() -> Iterator[File]:
        yield _file("3.jpg")
        raise OSError

    with pytest.raises(OSError):
        ledger.plan(listing(), _result)
    assert ledger.counts()["inputs"] == 10


def test_a_line_tells_of_each_input(ledger: Ledger, tmp_path: Path) -> None:
    strange = "strange \udcff\n.jpg"
    ledger.plan([_file("1.jpg"), _file("0.jpg"), _file(strange)], _result)
    ledger.record([Outcome(1, "failed", reason="damaged"), Outcome(2, "restored", "1.png", 3)])
    ledger.lose_unfinished("its worker died")
    ledger.write(tmp_path / "manifest.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert lines == [
        {"source": "0.jpg", "status": "failed", "reason": "damaged"},
        {"source": "1.jpg", "status": "restored", "result": "1.png", "faces": 3},
        {"source": strange, "status": "failed", "reason": "its worker died"},
    ]
