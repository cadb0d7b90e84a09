"""The parts of the service: what it lets in, how much at a time, and which model it has."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.requests import Request

from daefr.errors import UserError
from daefr.restore import ImageError, Restorer
from pipelines.engine.run import open_tracking
from pipelines.serve.budget import SECONDS_UNTIL_RETRY, Budget
from pipelines.serve.rejection import RequestRejectedError
from pipelines.serve.served_model import ServedModel
from pipelines.serve.settings import ServeConfig
from pipelines.serve.token import check_token, is_loopback, token_digest
from pipelines.serve.uploads import read_upload
from pipelines.tracking import registry
from pipelines.tracking.client import Tracking
from pipelines.tracking.settings import TrackingConfig
from tests.daefr import tiny

LIMITS = ServeConfig(max_upload_bytes=1000, upload_timeout_s=0.2)


def _request(chunks: list[bytes], *, then: Callable[[], Awaitable[Any]] | None = None, **headers: str) -> Request:
    """A request whose body arrives in chunks; `then` is awaited before its end."""

    async def arriving() -> AsyncIterator[dict[str, Any]]:
        for chunk in chunks:
            yield {"type": "http.request", "body": chunk, "more_body": True}
        if then is not None:
            await then()
        yield {"type": "http.request", "body": b"", "more_body": False}

    messages = arriving()
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "headers": named}, receive=messages.__anext__)


def _read(request: Request, room: int = 10_000) -> bytes:
    async def reading() -> bytes:
        with Budget(room).account() as held:
            return await read_upload(request, LIMITS, held)

    return asyncio.run(reading())


def _form(*parts: bytes) -> tuple[bytes, str]:
    body = b"".join(
        b'--edge\r\nContent-Disposition: form-data; name="image"; filename="x.png"\r\n\r\n' + part + b"\r\n"
        for part in parts
    )
    return body + b"--edge--\r\n", "multipart/form-data; boundary=edge"


def test_an_image_is_the_body_or_the_one_file_of_a_form() -> None:
    image = bytes(range(256)) + b"\r\n--edg\r\n" * 9
    assert _read(_request([image[:100], image[100:]], content_type="image/png")) == image
    body, kind = _form(image)
    assert _read(_request([body[:7], body[7:]], content_type=kind)) == image


@pytest.mark.parametrize(
    ("chunks", "headers", "status", "part"),
    [
        ([b"x" * 600, b"x" * 401], {}, 413, "1000"),
        ([], {"content_length": "1001"}, 413, "1000"),
        ([], {"content_length": "-1"}, 400, ""),
        ([], {}, 400, ""),
        ([_form(b"x", b"y")[0]], {"content_type": _form()[1]}, 400, "2"),
        ([b"no form at all"], {"content_type": _form()[1]}, 400, "form"),
        ([b"x"], {"content_type": "multipart/form-data"}, 400, "form"),
    ],
)
def test_invalid_uploads_are_rejected(chunks: list[bytes], headers: dict[str, str], status: int, part: str) -> None:
    with pytest.raises(RequestRejectedError, match=part) as rejected:
        _read(_request(chunks, **headers))
    assert rejected.value.status == status


def test_uploads_are_not_read_beyond_the_limit() -> None:
    async def never() -> None:
        raise AssertionError("it went on reading")

    with pytest.raises(RequestRejectedError):
        _read(_request([b"x" * 1001], then=never))


def test_a_slow_upload_is_cut_off() -> None:
    with pytest.raises(RequestRejectedError, match=r"0\.2") as rejected:
        _read(_request([b"x"], then=lambda: asyncio.sleep(60)))
    assert rejected.value.status == 408


def test_uploads_that_do_not_fit_into_memory_are_rejected_temporarily() -> None:
    with pytest.raises(RequestRejectedError) as rejected:
        _read(_request([b"x" * 500, b"x" * 400]), room=800)
    assert rejected.value.status == 503
    assert rejected.value.headers == {"Retry-After": str(SECONDS_UNTIL_RETRY)}


def test_a_budget_is_never_exceeded_and_everything_is_freed() -> None:
    budget, at_hand, most = Budget(10), 0, 0

    async def work(amount: int) -> None:
        nonlocal at_hand, most
        async with budget.reserve(amount):
            at_hand += amount
            most = max(most, at_hand)
            await asyncio.sleep(0.001)
            at_hand -= amount
            if amount == 3:
                raise ValueError

    async def all_of_it() -> None:
        await asyncio.gather(*(work(1 + number % 10) for number in range(50)), return_exceptions=True)
        with budget.account() as account:
            account.take(10)
            with pytest.raises(RequestRejectedError):
                account.take(1)
        async with asyncio.timeout(1), budget.reserve(10):
            pass

    asyncio.run(all_of_it())
    assert most <= 10


def test_only_a_loopback_address_needs_no_token(tmp_path: Path) -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "192.0.2.1", "example.org")] == [False] * 4
    assert token_digest(None, "127.0.0.1") is None
    with pytest.raises(UserError, match=r"serve\.host=0\.0\.0\.0.*serve\.token"):
        token_digest(None, "0.0.0.0")
    short = tmp_path / "token"
    short.write_text("secret\n")
    with pytest.raises(UserError, match=r"token.* 6 "):
        token_digest(short, "127.0.0.1")
    with pytest.raises(UserError, match="none"):
        token_digest(tmp_path / "none", "::")


def test_a_token_is_wanted_where_there_is_one(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("0123456789abcdef\n")
    digest = token_digest(path, "127.0.0.1")
    assert digest == hashlib.sha256(b"0123456789abcdef").digest()
    check_token("Bearer 0123456789abcdef", digest)
    check_token("bearer  0123456789abcdef ", digest)
    check_token(None, None)
    for wrong in (None, "", "Bearer", "Bearer ", "Bearer 0123456789abcdeF", "Basic 0123456789abcdef", "Bearer \udcff"):
        with pytest.raises(RequestRejectedError) as refused:
            check_token(wrong, digest)
        assert (refused.value.status, refused.value.headers) == (401, {"WWW-Authenticate": "Bearer"})


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    return open_tracking(TrackingConfig(), tmp_path_factory.mktemp("run"), 0)


def _promote(tracking: Tracking, version: registry.Version) -> None:
    registry.move_alias(tracking, version.name, registry.CHAMPION, version.number)


def _register(tracking: Tracking, checkpoint: Path) -> registry.Version:
    run_id = tracking.start_run(checkpoint.name, checkpoint.name)
    return registry.register(tracking, "restoration", checkpoint, run_id, fingerprint=checkpoint.name, tags={})


def test_the_model_follows_its_alias_and_a_broken_version_does_not_take_over(
    tracking: Tracking, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address = "models:/daefr-restoration@champion"
    versions = []
    for number in range(4):
        stage = tiny.build("restoration", seed=number)
        if number == 2:  # loads, but makes nothing
            for parameter in stage.generator.parameters():
                parameter.data.fill_(float("nan"))
        checkpoint = tiny.checkpoint(tmp_path / f"{number}", stage).path
        versions.append(_register(tracking, checkpoint))
        if number == 1:  # damaged in its store
            (Path(versions[-1].source.removeprefix("file://")) / "model.safetensors").write_bytes(b"")
    _promote(tracking, versions[0])

    champion = ServedModel(tracking, address, lambda path: Restorer.load(path, "cpu"), every=60, follow=False)
    first = champion.current
    assert first.model.name == versions[0].address
    assert champion.check()
    assert champion.current is first, "an unchanged model must not be loaded again"

    for broken, why in ((versions[1], "damaged"), (versions[2], "not finite")):
        _promote(tracking, broken)
        assert not champion.check()
        assert champion.current is first
        assert why in champion.problem
        assert versions[0].address in caplog.records[-1].getMessage()

    _promote(tracking, versions[3])
    assert champion.check()
    assert champion.problem == ""
    assert champion.current.model.name == versions[3].address
    crop = tiny.face(np.random.default_rng(0))
    now, before = (served.restorer.restore_crops([crop])[0] for served in (champion.current, first))
    assert not np.array_equal(now, before)

    with pytest.raises((UserError, ImageError)):
        ServedModel(tracking, versions[2].address, lambda path: Restorer.load(path, "cpu"), every=60)
