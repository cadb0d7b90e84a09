import os
import secrets
from collections.abc import Iterator, Sequence

import pytest

from tests import s3_server

# Ray reads its token once a process, so all of its clusters in this one must have the same, whoever starts them.
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

SLOW = {
    "test_bench_data",
    "test_bench_loader",
    "test_bench_training",
    "test_champions",
    "test_components",
    "test_equal_ranks",
    "test_evaluate",
    "test_faults",
    "test_generations",
    "test_on_cluster",
    "test_options",
    "test_package",
    "test_promote",
    "test_pyfunc",
    "test_restore_job",
    "test_service",
    "test_service_page",
    "test_speed",
    "test_stages",
    "test_synthesize",
    "test_training",
}
"""Files of tests that `make test-quick` leaves out."""


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Mark the tests of slow files."""
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def _s3() -> Iterator[s3_server.Proxy]:
    with s3_server.serve() as proxy, pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.variables(proxy).items():
            patch.setenv(name, value)
        yield proxy


@pytest.fixture
def s3(_s3: s3_server.Proxy) -> Iterator[s3_server.Proxy]:
    """An S3 server that does not fail until it is told to, and to which AWS's variables point."""
    _s3.fail([])
    yield _s3
    _s3.fail([])
