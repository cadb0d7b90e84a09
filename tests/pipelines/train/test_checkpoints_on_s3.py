"""Intermediate checkpoints on a real S3 server, as Ray Train and this project see them."""

from pathlib import Path

import pytest

from daefr.checkpoint import MODEL
from daefr.errors import UserError
from pipelines.chain import open_chain
from pipelines.config import load_config
from pipelines.storage.s3 import list_objects
from tests.e2e.command import TINY
from tests.s3_server import Proxy, direct

pytestmark = pytest.mark.usefixtures("_s3", "one_cluster")


def _train(workdir: Path, checkpoints: str) -> None:
    overrides = [f"workdir={workdir}", "stages.hq_codebook.steps=8", f"compute.checkpoints={checkpoints}"]
    with open_chain(load_config(TINY, overrides), "train") as chain:
        chain.train("hq_codebook", chain.synthesize(), {})


def test_any_prefix_holds_checkpoints(s3: Proxy, tmp_path: Path) -> None:
    direct(s3).create_bucket(Bucket="any-prefix")
    place = "s3://any-prefix/ck pts/50%20+ü?a=b#c"
    _train(tmp_path, place)
    (model,) = [found.address for found in list_objects(f"{place}/") if found.address.endswith(MODEL)]
    assert model.rsplit("/", 2)[1] == "step-000000008"
    assert all(found.address.startswith("s3://any-prefix/ck pts/") for found in list_objects("s3://any-prefix/"))


def test_a_place_that_cannot_be_used_is_a_mistake_that_is_not_tried_again(s3: Proxy, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        _train(tmp_path, "s3://no-such-bucket/ck pts")
    assert "compute.checkpoints" in str(caught.value)
    assert "s3://no-such-bucket/ck pts" in str(caught.value)
    assert len([path for _, path in s3.requests if "no-such-bucket" in path]) == 1
