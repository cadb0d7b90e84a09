from pathlib import Path
from typing import Any

import pytest

from daefr.errors import UserError
from pipelines.engine.step import Committed, StepInput, execute
from pipelines.tracking.client import FAILURE, Tracking


class Pipeline:
    """Runs the step `double`, and counts how often its work is done."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.done, self.said = folder, 0, list[str]()
        self.tracking = Tracking.open(f"sqlite:///{folder}/mlflow.db", "test", str(folder / "artifacts"))
        self.parent = self.tracking.start_run("parent", "parent")

    def run(self, number: int = 1, source: str = "a", version: int = 1, allowed: bool = True) -> Committed:
        def work(folder: Path, _: str) -> tuple[dict[str, Any], list[str]]:
            self.done += 1
            (folder / "result.txt").write_text(str(2 * number))
            if number < 0:
                raise RuntimeError("no number below 0")
            return {"result": 2 * number}, ["result.txt"]

        return execute(
            name="double",
            version=version,
            settings={"number": number},
            inputs={"source": StepInput(digest=source, origin="here")},
            workdir=self.folder,
            tracking=self.tracking,
            parent=self.parent,
            work=work,
            say=self.said.append,
            allowed=allowed,
        )


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
    with pytest.raises(UserError, match="double has not been run"):
        pipeline.run(allowed=False)
    pipeline.run()
    pipeline.run(allowed=False)
    assert pipeline.done == 1


def test_a_damaged_manifest_is_told(pipeline: Pipeline) -> None:
    manifest = pipeline.run().folder / "manifest.json"
    manifest.write_text(manifest.read_text()[:20])
    with pytest.raises(UserError, match="is damaged"):
        pipeline.run()
