from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from daefr.errors import UserError
from pipelines.engine.run import Run
from pipelines.engine.step import Step, StepContext, StepInput, StepOutput, StepResult
from pipelines.tracking.client import FAILURE, Tracking


@dataclass(frozen=True)
class Double(Step):
    """Doubles a number, and notes in `done` that it did."""

    number: int
    source: str
    version: int  # type: ignore[misc]  # a setting here, so that it can be changed
    done: list[int]
    is_valid: bool = True

    name = "double"

    def settings(self) -> dict[str, Any]:
        return {"number": self.number}

    def inputs(self) -> dict[str, StepInput]:
        return {"source": StepInput(digest=self.source, origin="here")}

    def run(self, context: StepContext) -> StepOutput:
        self.done.append(self.number)
        (context.folder / "result.txt").write_text(str(2 * self.number))
        if self.number < 0:
            raise RuntimeError("no number below 0")
        return StepOutput({"result": 2 * self.number}, ["result.txt"])

    def is_still_valid(self, _: StepResult) -> bool:
        return self.is_valid


class Pipeline:
    """Runs the step `double`, and counts how often its work is done."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._done = folder, list[int]()
        self.tracking = Tracking.open(f"sqlite:///{folder}/mlflow.db", "test", str(folder / "artifacts"))
        self.parent = self.tracking.start_run("parent", "parent")

    @property
    def done(self) -> int:
        return len(self._done)

    def run(
        self, number: int = 1, source: str = "a", version: int = 1, allowed: bool = True, is_valid: bool = True
    ) -> StepResult:
        run = Run(self.folder, self.tracking, self.parent, None if allowed else ())
        return run.execute(Double(number, source, version, self._done, is_valid))


@pytest.fixture(scope="module")
def tracking_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("steps")


@pytest.fixture
def pipeline(tracking_folder: Path, request: pytest.FixtureRequest) -> Pipeline:
    pipeline = Pipeline(tracking_folder)
    pipeline.folder = tracking_folder / str(request.node.name)
    return pipeline


def test_a_committed_step_is_not_run_again(pipeline: Pipeline) -> None:
    first, second = pipeline.run(), pipeline.run()
    assert pipeline.done == 1
    assert first.manifest == second.manifest
    assert second.manifest.outputs == {"result": 2}


@pytest.mark.parametrize("change", [{"number": 2}, {"source": "b"}, {"version": 2}])
def test_another_setting_input_or_version_is_another_step(pipeline: Pipeline, change: dict[str, Any]) -> None:
    first, second = pipeline.run(), pipeline.run(**change)
    assert pipeline.done == 2
    assert first.folder != second.folder
    assert (first.folder / "result.txt").read_text() == "2"


def test_a_step_that_is_not_valid_any_more_is_run_again(pipeline: Pipeline) -> None:
    first = pipeline.run()
    before = first.as_input()
    again = pipeline.run(is_valid=False)
    assert pipeline.done == 2
    assert first.folder == again.folder
    assert before != again.as_input()


def test_a_step_whose_file_is_gone_is_run_again(pipeline: Pipeline) -> None:
    first = pipeline.run()
    before = first.as_input()
    (first.folder / "result.txt").unlink()
    assert pipeline.run().as_input() != before
    assert pipeline.done == 2


def test_a_step_that_fails_is_not_committed_and_its_run_says_why(pipeline: Pipeline) -> None:
    with pytest.raises(RuntimeError):
        pipeline.run(number=-1)
    runs = pipeline.tracking.client.search_runs([pipeline.tracking.experiment_id], f"tags.`{FAILURE}` LIKE '%below 0'")
    assert [run.info.status for run in runs] == ["FAILED"]
    with pytest.raises(RuntimeError):
        pipeline.run(number=-1)
    assert pipeline.done == 2


def test_a_step_that_is_not_allowed_is_found_but_not_run(pipeline: Pipeline) -> None:
    with pytest.raises(UserError, match="double"):
        pipeline.run(allowed=False)
    pipeline.run()
    pipeline.run(allowed=False)
    assert pipeline.done == 1


def test_a_damaged_manifest_is_an_error(pipeline: Pipeline) -> None:
    manifest = pipeline.run().folder / "manifest.json"
    manifest.write_text(manifest.read_text()[:20])
    with pytest.raises(UserError, match=r"manifest\.json"):
        pipeline.run()
