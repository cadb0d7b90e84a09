from collections.abc import Iterator

import pytest

from tests import s3_server


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
