"""The whole pipeline as a job of two nodes: token authentication, shards, checkpoints and artifacts on S3, MLflow on
PostgreSQL. All of them are real servers on loopback. `make test-cluster` runs it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

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
def finished(
    cluster: Nodes, tracking: TrackingServer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Finished, Path]:
    workdir = tmp_path_factory.mktemp("run")
    done = cluster.submit(
        ROOT,
        "pipelines/full.py",
        "--config", "pipelines/configs/demo.yaml", *SMALL,
        f"workdir={workdir}",
        f"data.store=s3://{BUCKET}/shards",
        f"compute.cache={workdir / 'cache'}",
        f"compute.checkpoints=s3://{BUCKET}/checkpoints",
        f"tracking.uri={tracking.uri}",
    )  # fmt: skip
    return Finished(done.returncode, done.stdout, done.stderr), workdir


SMALL = [
    "data.portraits=24", "data.validation=4", "data.shard_samples=8", "network.autoencoder.channels=8",
    "network.autoencoder.groups=4", *(f"stages.{stage}.steps=8" for stage in STAGES),
    *(f"stages.{stage}.checkpoint_every=4" for stage in STAGES), *(f"stages.{stage}.milestones=[]" for stage in STAGES),
    "compute.hq_codebook.placement=SPREAD", "compute.restoration.placement=SPREAD",
]  # fmt: skip


def test_it_ends_with_a_model(finished: tuple[Finished, Path]) -> None:
    done, workdir = finished
    assert done.code == 0, done.out + done.err
    for stage in STAGES:
        assert list(workdir.glob(f"steps/{stage}-*/checkpoint/{MODEL}"))
