"""Uploads that are refused while they arrive: whoever sends all of one before reading still reads the refusal."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import uvicorn
from fastapi import FastAPI, Request, Response

from pipelines.serve import lingering
from pipelines.serve.budget import Budget
from pipelines.serve.lingering import LingeringResponse
from pipelines.serve.rejection import RequestRejectedError
from pipelines.serve.settings import ServeConfig
from pipelines.serve.uploads import read_upload

LIMITS = ServeConfig(max_upload_bytes=100_000, upload_timeout_s=60)
PART = b"x" * 50_000
PARTS = 200  # 10 MB: more than the buffers between client and server hold
FORM = "multipart/form-data; boundary=edge"
FORM_START = b'--edge\r\nContent-Disposition: form-data; name="image"; filename="x.png"\r\n\r\n'


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server with the real reading and refusing of uploads, without the rest of the service."""
    app, budget = FastAPI(), Budget(10**9)

    @app.post("/restore")
    async def restore(request: Request) -> Response:
        with budget.account() as held:
            return Response(await read_upload(request, LIMITS, held))

    @app.exception_handler(RequestRejectedError)
    async def refuse(_: Request, error: RequestRejectedError) -> Response:
        assert error.closes
        return LingeringResponse({"error": str(error)}, error.status, error.headers)

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


def _upload(port: int, *, form: bool, chunked: bool) -> tuple[int, str]:
    """Send all of an upload that is far too large, then read the answer, as most clients do."""
    parts = [FORM_START if form else b"", *[PART] * PARTS]
    headers = {"Content-Type": FORM if form else "image/png"}
    if not chunked:
        headers["Content-Length"] = str(sum(map(len, parts)))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", "/restore", (part for part in parts if part), headers, encode_chunked=chunked)
        answer = connection.getresponse()
        assert answer.getheader("connection") == "close"
        return answer.status, json.loads(answer.read())["error"]
    finally:
        connection.close()


@pytest.mark.parametrize("form", [False, True], ids=["body", "form"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_whoever_sends_too_much_reads_why_it_is_refused(port: int, form: bool, chunked: bool) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: _upload(port, form=form, chunked=chunked), range(12)))
    assert {status for status, _ in answers} == {413}
    assert all("100000 bytes" in error for _, error in answers)


def test_whoever_never_stops_sending_is_cut_off(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering, "LINGER_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b"POST /restore HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        with pytest.raises(ConnectionError):
            while True:
                client.sendall(b"%x\r\n%s\r\n" % (len(PART), PART))


def test_whoever_falls_silent_is_cut_off(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering, "SILENCE_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b"POST /restore HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        received = b""
        while part := client.recv(10_000):
            received += part
    assert received.startswith(b"HTTP/1.1 413 ")
