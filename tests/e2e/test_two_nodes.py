"""The whole pipeline as a job of two nodes: token authentication, shards, checkpoints and artifacts on S3, MLflow on
PostgreSQL. All of them are real servers on loopback. `make test-cluster` runs it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from daefr.checkpoint import MODEL
from tests import s3_server
from tests.e2e.command import ROOT, Finished
from tests.e2e.nodes import Nodes, start_cluster
from tests.e2e.servers import TrackingServer, postgres, postgres_programs
from tests.s3_server import Proxy, direct

pytestmark = pytest.mark.cluster

BUCKET = "daefr"
STAGES = ["hq_codebook", "lq_codebook", "association", "restoration"]


@pytest.fixture(scope="module")
def store(_s3: Proxy) -> Proxy:
    direct(_s3).create_bucket(Bucket=BUCKET)
    return _s3


@pytest.fixture(scope="module")
def tracking(store: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed")
    with postgres(programs) as database:
        server = TrackingServer(
            database, f"s3://{BUCKET}/artifacts", s3_server.variables(store), tmp_path_factory.mktemp("mlflow")
        )
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="module")
def cluster(store: Proxy) -> Iterator[Nodes]:
    """Two nodes of one CPU each, so that the two workers of a stage are on different ones."""
    with start_cluster(cpus=1, environment=s3_server.variables(store)) as nodes:
        nodes.add(cpus=1)
        yield nodes


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def arguments(workdir: Path, tracking: TrackingServer) -> list[str]:
    return [
        "--config", "pipelines/configs/demo.yaml", *SMALL,
        f"workdir={workdir}",
        f"data.shard_storage=s3://{BUCKET}/shards",
        f"compute.cache_dir={workdir / 'cache'}",
        f"compute.checkpoints=s3://{BUCKET}/checkpoints",
        f"tracking.uri={tracking.uri}",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def finished(cluster: Nodes, workdir: Path, arguments: list[str]) -> tuple[Finished, Path]:
    done = cluster.submit(ROOT, "pipelines/full.py", *arguments)
    return Finished(done.returncode, done.stdout, done.stderr), workdir


SMALL = [
    "data.num_portraits=24", "data.num_validation=4", "data.samples_per_shard=8", "network.autoencoder.channels=8",
    "network.autoencoder.groups=4", *(f"stages.{stage}.steps=8" for stage in STAGES),
    *(f"stages.{stage}.checkpoint_every_n_steps=4" for stage in STAGES),
    *(f"stages.{stage}.milestones=[]" for stage in STAGES),
    "compute.hq_codebook.placement_strategy=SPREAD", "compute.restoration.placement_strategy=SPREAD",
]  # fmt: skip


def test_it_ends_with_a_model(finished: tuple[Finished, Path]) -> None:
    done, workdir = finished
    assert done.code == 0, done.out + done.err
    for stage in STAGES:
        assert list(workdir.glob(f"steps/{stage}-*/checkpoint/{MODEL}"))


def test_shards_and_checkpoints_were_on_s3_alone(finished: tuple[Finished, Path], store: Proxy) -> None:
    _, workdir = finished
    assert not list(workdir.glob("steps/*/*.tar"))
    assert not list(workdir.rglob("step-*"))
    keys = [found["Key"] for found in direct(store).list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert any(key.startswith("shards/") and key.endswith(".tar") for key in keys)
    assert any(key.startswith("artifacts/") and key.endswith(MODEL) for key in keys)
    written = {path for method, path in store.requests if method == "PUT" and "/checkpoints/" in path}
    for stage in STAGES:
        assert any(f"/checkpoints/{stage}-" in path and path.endswith(MODEL) for path in written)
    left = {
        key.split("/")[1]: key.split("/")[2] for key in keys if key.count("/") > 1 and key.startswith("checkpoints/")
    }
    assert len(left) == len(STAGES), "the last of each stage, from which a longer training resumes"


def test_mlflow_has_it_all_on_postgres(finished: tuple[Finished, Path], tracking: TrackingServer) -> None:
    assert finished[0].code == 0
    client = MlflowClient(tracking.uri)
    experiment = client.get_experiment_by_name("daefr")
    assert experiment is not None
    assert experiment.artifact_location.startswith("mlflow-artifacts:")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for stage in STAGES:
        assert client.get_model_version_by_alias(f"daefr-{stage.replace('_', '-')}", "champion").version
        metrics = runs[stage].data.metrics
        assert metrics["checkpoint_megabytes"] > 0
        assert metrics["startup/workers"] > 0


def test_what_is_done_is_not_run_again(finished: tuple[Finished, Path], cluster: Nodes, arguments: list[str]) -> None:
    assert finished[0].code == 0
    again = cluster.submit(ROOT, "pipelines/full.py", *arguments)
    assert again.returncode == 0
    assert " starting, " not in again.stdout
    assert "restoration: up to date" in again.stdout


def test_who_has_no_token_is_refused(cluster: Nodes, tmp_path: Path) -> None:
    stranger = replace(cluster, variables={"RAY_AUTH_MODE": "disabled", "HOME": str(tmp_path)})
    refused = stranger.submit(ROOT / "pipelines/configs", "-c", "print('taken')")
    assert refused.returncode != 0
    assert "Missing authentication token" in refused.stdout + refused.stderr
