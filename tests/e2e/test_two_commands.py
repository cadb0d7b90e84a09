"""Two commands at the same time in one run directory."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mlflow import MlflowClient

from tests.e2e.command import run


def test_a_stage_is_trained_by_one_of_two_commands_that_the_other_waits_for(tmp_path: Path) -> None:
    assert run("synthesize", tmp_path).code == 0
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: run("train", tmp_path, "--stage", "hq_codebook"), range(2)))
    assert [finished.code for finished in both] == [0, 0], "\n".join(finished.err for finished in both)
    assert both[0].out == both[1].out
    assert sorted(finished.started() for finished in both) == [[], ["hq_codebook"]]

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'daefr'")
    (stage,) = client.search_runs([experiment.experiment_id], "tags.mlflow.runName = 'hq_codebook'")
    steps = [metric.step for metric in client.get_metric_history(stage.info.run_id, "loss")]
    assert steps == list(range(4, 41, 4))
