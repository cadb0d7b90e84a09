from collections.abc import Iterator

import pytest

from pipelines.engine import cluster


@pytest.fixture(scope="module")
def one_cluster() -> Iterator[None]:
    """One Ray for all runs of a file; where AWS's variables are wanted in it, `_s3` comes first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "disconnect", lambda: None)
        cluster.connect()
        yield
    cluster.disconnect()
