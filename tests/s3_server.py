"""A real S3 server in a process of its own, and a proxy before it that fails as networks and servers do."""

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any, Literal

import boto3

Fault = Literal["500", "503", "refuse", "cut", "lose", "slow"]
"""An answer of 500 or 503; the connection closed before the request reaches the server; in the middle of the answer's
body; after the server has done what was asked; an answer that takes a second."""
Wanted = Callable[[str, str], bool]


class Proxy(ThreadingHTTPServer):
    """Passes requests on to the server, except those that are to fail. A page of a listing has three objects."""

    daemon_threads = True

    def __init__(self, server: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.server, self.requests = server, list[tuple[str, str]]()
        self._faults, self._wanted, self._lock = list[Fault](), _any, Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fail(self, faults: list[Fault], wanted: Wanted | None = None) -> None:
        """Let the next requests that are `wanted` (method, path with query) fail, one with each fault."""
        with self._lock:
            self._faults, self._wanted, self.requests = list(faults), wanted or _any, []

    @property
    def left(self) -> list[Fault]:
        """The faults that have not happened."""
        return self._faults

    def fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self.requests.append((method, path))
            return self._faults.pop(0) if self._wanted(method, path) and self._faults else None

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is no news."""


def _any(_: str, __: str) -> bool:
    return True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def _pass_on(self) -> None:
        body = self._body()
        fault = self.server.fault(self.command, self.path)
        if fault in ("500", "503"):
            self.send_response(int(fault))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "refuse":
            self.close_connection = True
            return
        if fault == "slow":
            time.sleep(1)
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.server, timeout=30)
        pages = "&max-keys=3" if "list-type=2" in self.path else ""
        headers = {name: value for name, value in self.headers.items() if name.lower() != "transfer-encoding"}
        upstream.request(self.command, self.path + pages, body, headers)
        answer = upstream.getresponse()
        content = answer.read()
        if fault == "lose":
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "server", "date"):
                self.send_header(name, value)
        if answer.getheader("Content-Length") is None:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if fault == "cut":
            content = content[: len(content) // 2]
            self.close_connection = True
        self.wfile.write(content)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serve() -> Iterator[Proxy]:
    """Run server and proxy while the block runs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
    )
    proxy = Proxy(port)
    Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, "the S3 server did not start"
            time.sleep(0.1)
        yield proxy
    finally:
        proxy.shutdown()
        server.terminate()
        server.wait()


def variables(proxy: Proxy) -> dict[str, str]:
    """What a user sets: AWS's standard variables."""
    return {
        "AWS_ENDPOINT_URL": proxy.url,
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


SECRET = "a-secret-that-must-not-be-told"


def direct(proxy: Proxy) -> Any:
    """Return a client that goes around the proxy, to prepare and to inspect."""
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{proxy.server}",
        aws_access_key_id="tester",
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
    )
